"""A release in 30 lines: `tiny_server.py PORT RELEASE [HOST]`. The path says how it behaves.

`/slow0.3` answers after 0.3 s, `/fail500` with that status, `/exit` kills the process; any other path
is answered at once. `/readyz` is ready.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        status, path = 200, self.path
        if "slow" in path:
            time.sleep(float(path.split("slow")[1]))
        if "fail" in path:
            status = int(path.split("fail")[1][:3])
        if "exit" in path:
            os._exit(3)
        body = f"{sys.argv[2]} {path} {self.headers.get('x-request-id', '')}".encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda *_: os._exit(0)
    )  # said, since a container's first process has no default
    print(f"serving {sys.argv[2]} on {sys.argv[1]}", flush=True)
    Server(((sys.argv[3:] or ["127.0.0.1"])[0], int(sys.argv[1])), Handler).serve_forever()
