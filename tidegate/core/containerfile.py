"""What a release's container file says: BentoML's own part, and the two stages that are added to it. Pure.

BentoML's containerization makes the first stage: it sets up its user and folders and installs what the Bento
needs. It is asked, by its own options, to install offline and only what is locked. Of that stage the
installed packages alone go on: into `packages`, which every release with the same pins shares, and on top of
it into `release`, which holds the Bento as it is, its labels, and how it is started and asked for its health.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BENTO = "/home/bentoml/bento"  # BentoML's own place for it
USER = 1034  # BentoML's own user, as a number: that is what orchestrators can check not to be root
PORT = 3000  # BentoML's own
ALL = "0.0.0.0"  # noqa: S104 - of a container, which has a network of its own
TOOLS = "env/docker"  # what BentoML copies before it runs commands
SCRATCH = "/tmp"  # noqa: S108 - the one folder that can be written where the root can't
PYTHON = "/app/.venv/bin/python"  # where BentoML installs
SBOM = "/home/bentoml/sbom.cdx.json"
CONFIGURED = f"""# Offline, and nothing but the locked files whose hashes agree.
offline = true
python-downloads = "never"
[pip]
no-deps = true
no-index = true
find-links = ["{BENTO}/env/python/wheels"]
require-hashes = true
only-binary = [":all:"]
"""
_TOOLS = (
    f"install -m 755 {TOOLS}/uv /usr/local/bin/uv && install -D -m 644 {TOOLS}/uv.toml /etc/uv/uv.toml"
    f" && install -D -m 644 {TOOLS}/healthy.py /app/healthy.py"
)
# Where the base has no Python; BentoML tells uv to look for one there.
_OWN_PYTHON = f"if [ -d {TOOLS}/python ]; then mkdir -p /app && mv {TOOLS}/python /app/python; fi"
# uv notes when it installed what; byte code would hold times, too, and differ by the order of compiling.
_SAME = (
    r"find /app/.venv -name uv_cache.json -delete"
    r" && find /app/.venv -name RECORD -exec sed -i /uv_cache.json,/d {} +"
    r" && find /app/.venv -name __pycache__ -prune -exec rm -r {} +"
)
_COMPILE = (
    "PYTHONHASHSEED=0 python -m compileall -q -f --invalidation-mode unchecked-hash /app/.venv/lib || true"
)
# What the linter says about BentoML's own lines, and why that may stand in a stage that is thrown away.
_LINTED = {
    "RUN if command -v groupadd": "DL3046,SC3020",  # its user is not the one that runs here
    "RUN command -v uv": "DL3013,DL3042",  # uv is there by then: nothing is installed
    "RUN find /app": "DL3059",
    "RUN PYTHONHASHSEED=0": "DL3059",
    "USER bentoml": "DL3066",
}


def image_options(base: str, python: str) -> dict[str, Any]:
    """Return the `image` section by which BentoML writes its part, for CPython `python`."""
    return {
        "base_image": base,
        "python_version": python,
        "commands": [_TOOLS, _OWN_PYTHON],
        "python_requirements": "",
        "post_commands": [_SAME, _COMPILE],
        "build_include": [],
    }


def packages_file(generated: str, base: str) -> str:
    """Return the container file up to the stage `packages`, from what BentoML generated."""
    return f"""{_annotated(generated).strip()}

# ===== Added by Tidegate: what was installed, without the tools that did it.
FROM {base} AS packages
COPY --from=base-container --chown=0:0 /app /app
"""


def release_file(
    packages: str, labels: Mapping[str, str], environment: Mapping[str, str], parts: Sequence[str]
) -> str:
    """Return the stage `release` on top of an image or stage of packages.

    `parts` are the files and folders of the Bento's own folder. Everything belongs to root, and the process
    is not root: it can't change its own code even where the file system is not read-only.
    """
    copies = "\n".join(f"COPY --chown=0:0 {part} {BENTO}/{part}" for part in parts)
    said = " \\\n".join(f"      {key}={_quoted(value)}" for key, value in sorted(labels.items()))
    around = {**environment, **_AROUND}
    variables = " \\\n".join(f"    {key}={_quoted(value)}" for key, value in sorted(around.items()))
    start = [PYTHON, "-P", "-m", "tidegate.serve", BENTO]
    return f"""
# ===== Added by Tidegate: one release, served as every workload is.
FROM {packages} AS release
{copies}
COPY --chown=0:0 sbom.cdx.json {SBOM}
LABEL \\
{said}
ENV \\
{variables}
WORKDIR {BENTO}
USER {USER}:{USER}
EXPOSE {PORT}
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \\
  CMD {json.dumps([PYTHON, "-I", "/app/healthy.py"])}
ENTRYPOINT {json.dumps(start)}
CMD {json.dumps(["--port", str(PORT), "--host", ALL])}
"""


_AROUND = {
    "BENTOML_CONTAINERIZED": "true",
    "BENTOML_HOME": f"{SCRATCH}/bentoml",
    "HOME": SCRATCH,
    "LANG": "C.UTF-8",
    "PATH": "/app/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": f"{BENTO}/src",
}


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("$", "\\$")


def _annotated(generated: str) -> str:
    lines: list[str] = []
    for line in generated.splitlines():
        rules = next((rules for start, rules in _LINTED.items() if line.startswith(start)), "")
        if rules:
            lines.append(f"# hadolint ignore={rules}")
        lines.append(line)
    return "\n".join(lines)


# ---------------------------------------------------------------- what is installed
def entries(lock: str) -> dict[str, str]:
    """Return name → the requirement with its hashes, one line each, of a lock with hashes."""
    found: dict[str, str] = {}
    for line in lock.replace("\\\n", " ").splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?==", line)
        if pin and "--hash=" in line:
            found[_name(pin[1])] = " ".join(line.replace(pin[2] or "", "", 1).split())
    return found


def requirements(pins: Iterable[str], lock: str, gpu_lock: str = "") -> tuple[str, list[str]]:
    """Return the requirements of an image with hashes, and the pins that the lock does not have so.

    `pins` are the Bento's. With `gpu_lock`, the lock of `onnxruntime-gpu` and what it needs, that takes the
    place of `onnxruntime`: both are the same module.
    """
    known, lines, missing = entries(lock), {}, []
    for pin in pins:
        wanted = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", pin)
        if not wanted:
            continue
        name = _name(wanted[1])
        if re.match(rf"\S+=={re.escape(wanted[2])}(\s|;|$)", known.get(name, "")):
            lines[name] = known[name]
        else:
            missing.append(pin)
    if gpu_lock:
        lines.pop("onnxruntime", None)
        lines |= {name: known.get(name, line) for name, line in entries(gpu_lock).items()}
    return "".join(f"{lines[name]}\n" for name in sorted(lines)), missing


def pinned(requirements: str) -> dict[str, str]:
    """Return name → version of requirements as `requirements` wrote them."""
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line) for line in requirements.splitlines())
    return {_name(pin[1]): pin[2] for pin in found if pin}


def hashes(requirements: str) -> frozenset[str]:
    """Return every sha256 that requirements allow."""
    return frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", requirements))


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---------------------------------------------------------------- the base
def debian_packages(status: str) -> list[tuple[str, str, str]]:
    """Return (name, version, architecture) of what is installed, by the text of /var/lib/dpkg/status."""
    found = []
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if re.match(r"[A-Za-z-]+: ", line))
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            found.append((fields["Package"], fields.get("Version", ""), fields.get("Architecture", "")))
    return sorted(found)
