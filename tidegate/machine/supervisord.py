"""supervisord as planes and workloads use it: its configuration's text, and calls over its socket."""

from __future__ import annotations

import http.client
import shlex
import xmlrpc.client
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tidegate.errors import PlatformError, Unreachable
from tidegate.machine.unix_http import UnixConnection

# supervisor.xmlrpc.Faults, and the states of supervisor.states.ProcessStates
BAD_NAME, NOT_RUNNING, ALREADY_STARTED, ALREADY_ADDED, STILL_RUNNING = 10, 70, 60, 90, 91
ALIVE = ("STARTING", "RUNNING")


def program(
    name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str], **options: object
) -> str:
    """Return the text of one `[program:…]` section; log files are rotated at 5 MB, two are kept."""
    variables = ",".join(f"{key}={_quoted(value)}" for key, value in sorted(environment.items()))
    values: dict[str, object] = {
        "command": _plain(shlex.join(command)),
        "environment": variables,
        "redirect_stderr": "true",
        "stdout_logfile": _plain(str(log)),
        "stdout_logfile_maxbytes": "5MB",
        "stdout_logfile_backups": 2,
        "autostart": "true",
        "autorestart": "true",
        "stopasgroup": "true",
        "killasgroup": "true",
        **options,
    }
    return f"[program:{name}]\n" + "".join(f"{key}={value}\n" for key, value in values.items() if value != "")


def main_section(folder: Path, socket: Path, identifier: str) -> str:
    """Return the sections of supervisord itself; programs are read from `folder` and its workloads/."""
    return (
        f"[unix_http_server]\nfile={_plain(str(socket))}\nchmod=0600\n\n"
        f"[supervisord]\nidentifier={identifier}\nnodaemon=true\n"
        f"logfile={_plain(str(folder / 'logs' / 'supervisord.log'))}\n"
        "logfile_maxbytes=5MB\nlogfile_backups=2\nsilent=true\n"
        f"pidfile={_plain(str(folder / 'supervisord.pid'))}\n"
        f"childlogdir={_plain(str(folder / 'logs'))}\nnocleanup=true\n\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
        f"[include]\nfiles={_plain(str(folder / 'workloads'))}/*.conf\n\n"
    )


def _plain(text: str) -> str:
    """Escape what supervisord's reader would expand; refuse what it can't carry."""
    if "\n" in text or " ;" in text or " #" in text:
        raise PlatformError(
            f"supervisord can't be given {text!r}", "Take the ` ;`, ` #` or line break out of it."
        )
    return text.replace("%", "%%")


def _quoted(value: str) -> str:
    mark = "'" if '"' in value else '"'
    if mark in value:
        raise PlatformError(f"supervisord can't be given {value!r}", "Take one kind of quotes out of it.")
    return f"{mark}{_plain(value)}{mark}"


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path = path
        self._timeout = timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return UnixConnection(self._path, self._timeout)


class Supervisord:
    """Calls of supervisord's XML-RPC interface."""

    def __init__(self, socket: Path, timeout: float = 5.0) -> None:
        self._socket = socket
        self._timeout = timeout

    def call(self, method: str, *arguments: Any, ignore: Collection[int] = ()) -> Any:
        """Call `supervisor.<method>`; faults in `ignore` return None.

        Raises Unreachable when nobody answers, PlatformError for another fault.
        """
        transport = _Transport(self._socket, self._timeout)
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport, allow_none=True)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in ignore:
                return None
            raise PlatformError(
                f"supervisord refused {method}{arguments!r}: {fault.faultString}", "Look at supervisord.log."
            ) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise Unreachable(
                f"no answer from supervisord at {self._socket} ({error})", "Run `tidegate up`."
            ) from error
        finally:
            transport.close()

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return supervisord's word on every program, by name (each is a group of its own)."""
        found: list[dict[str, Any]] = self.call("getAllProcessInfo")
        return {item["name"]: item for item in found}

    def add(self, *names: str) -> None:
        """Read the configuration again and start the named programs, if they don't run."""
        self.call("reloadConfig")
        for name in names:
            self.call("addProcessGroup", name, ignore=(ALREADY_ADDED,))

    def restart(self, name: str) -> None:
        """Start a program that has stopped or failed; nothing if it runs."""
        self.call("startProcess", name, False, ignore=(ALREADY_STARTED,))

    def signal_stop(self, *names: str) -> None:
        """Begin to stop programs, without waiting."""
        for name in names:
            self.call("stopProcess", name, False, ignore=(NOT_RUNNING, BAD_NAME))

    def remove(self, *names: str) -> None:
        """Forget programs that have stopped; leave the others."""
        for name in names:
            self.call("removeProcessGroup", name, ignore=(BAD_NAME, STILL_RUNNING))
