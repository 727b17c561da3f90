"""Serves one Bento in one process: `python -P -m tidegate.serve my_model:7-9be14c2 --port 8001`.

Travels inside every Bento, so that a release is started by the code that it was built with. It uses only
what is public of BentoML and uvicorn; `bentoml serve` works on the same Bento, with a second process.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

# Far longer than Envoy keeps an idle connection (4 s, `core/xds.py`): the side that is asked must not be the
# one that closes it, or a request that is just under way is lost.
KEEP_ALIVE_SECONDS = 2 * 3600
DRAIN_SECONDS = 10


def main() -> int:
    """Serve until SIGTERM; 0 after a clean end, 3 when the service did not start, 1 for a taken port."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.serve", description=__doc__)
    parser.add_argument("bento", help="tag (name:version) or folder of a Bento")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    text = "also answer gRPC (the Open Inference Protocol) there; default: TIDEGATE_GRPC_PORT, 0 is off"
    parser.add_argument("--grpc-port", type=int, help=text)
    arguments = parser.parse_args()
    if arguments.grpc_port is not None:  # a service reads it where `bentoml serve` can say it, too
        told = f"{arguments.host}:{arguments.grpc_port}" if arguments.grpc_port else "0"
        os.environ["TIDEGATE_GRPC_PORT"] = told
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # While loading, SIGTERM ends at once; while serving, uvicorn drains and then raises it again.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))

    import uvicorn

    config = uvicorn.Config(
        app="unused:replaced-below",
        host=arguments.host,
        port=arguments.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=2048,
    )
    listening = config.bind_socket()  # before the slow part: a taken port is told at once; listens when ready
    _hang_up_on_the_gone(listening)
    _fresh_metrics_folder(arguments.port)  # only now is it surely no living process's
    config.app = _load(arguments.bento)
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    return 0 if server.started else 3


def _load(bento: str) -> Any:
    import bentoml

    service = bentoml.load(bento)
    context = bentoml.server_context  # the labels of BentoML's metrics
    context.service_name = service.name
    context.service_type = "entry_service"
    context.worker_index = 1
    tag = service.bento.tag if service.bento else None  # a folder is loaded where there is no store: an image
    context.bento_name, context.bento_version = (tag.name, tag.version or "") if tag else (service.name, "")
    return service.to_asgi(is_main=True)


def _hang_up_on_the_gone(listening: socket.socket) -> None:
    """Have the system close connections whose other end is gone without a word, after two minutes.

    Each accepted connection inherits it; uvicorn itself would keep one that never says anything for ever.
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # Linux
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _fresh_metrics_folder(port: int) -> None:
    """Give this process a folder of its own for its counters, emptied of an earlier life's.

    BentoML's default is one folder for the whole store, which each `bentoml serve` deletes: releases
    beside each other would lose their metrics.
    """
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    folder = home / "metrics" / str(port)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # the only way to tell prometheus_client


if __name__ == "__main__":
    sys.exit(main())
