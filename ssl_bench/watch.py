"""The report, served to this machine's own browser and made anew while runs go on.

Only the page and its data are served, read-only, on 127.0.0.1.  A page elsewhere on the web could point a name of its own at that
address and read along; it is refused by the name it asks for (DNS rebinding).
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench import published, run_state
from ssl_bench.messages import refuse
from ssl_bench.report import add_arguments, embedded, page, page_data
from ssl_bench.word_parser import WordParser

ADDRESS = "127.0.0.1"  # nobody else on the network is asked who they are, so nobody else may ask
PORT = 8321
SHARE = 4  # reading thousands of runs again and again must leave the processor to those that train
READ = frozenset("args.json result.json metrics.jsonl environment.json failed.json predictions.npz classes.json .owner.json .queued".split())
HEADERS = {
    "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page brings the rest, with the hashes of its script and style
}  # fmt: skip


class Latest:
    """The page's data, read again only when a file it was read from has changed; for several threads."""

    def __init__(self, folders: Sequence[str], numbers: pd.DataFrame | None) -> None:
        self._folders, self._numbers = folders, numbers
        self._lock = threading.Lock()
        self._tag, self._until = "", 0.0
        self._data: dict[str, Any] = {}

    def get(self) -> tuple[str, dict[str, Any]]:
        """(tag of what is there now, data).  Raises what `page_data` does."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._until:
                tag = fingerprint(self._folders)
                if tag != self._tag:
                    self._data = page_data(self._folders, self._numbers, figures=False) | {"tag": tag}
                    self._tag = tag
                self._until = time.monotonic() + SHARE * (time.monotonic() - begun)
            return self._tag, self._data


def fingerprint(folders: Sequence[str]) -> str:
    """Changes with name, size or time of any file that the report reads, and with any run's state: a process that dies leaves files as
    they are and its lock free."""
    state = hashlib.sha256()
    for top in folders:
        for folder, inner, files in os.walk(top):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(READ.intersection(files)):
                _add(state, Path(folder, name))
            if "args.json" in files:
                state.update(f"{run_state.state_name(Path(folder))}\n".encode())
        if Path(top).is_file():
            _add(state, Path(top))
    return state.hexdigest()[:16]


def _add(state: Any, file: Path) -> None:
    try:
        found = file.stat()
    except FileNotFoundError:  # a run's failed.json goes while we look
        return
    state.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))


def server(folders: Sequence[str], title: str, numbers: pd.DataFrame | None, port: int) -> ThreadingHTTPServer:
    """A server, bound and not yet serving; port 0: any free one.  OSError: the port is taken.  ValueError, FileNotFoundError: there
    is nothing to show."""
    latest = Latest(folders, numbers)
    latest.get()
    made = ThreadingHTTPServer((ADDRESS, port), _handler(latest.get, title))
    made.daemon_threads = True
    return made


def _handler(latest: Callable[[], tuple[str, dict[str, Any]]], title: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
                self.close_connection = True  # what follows is not read, and must not be taken for the next request
                return self._answer(HTTPStatus.BAD_REQUEST, b"a request here has no body\n")
            host, port = self.headers.get_all("Host") or [], self.connection.getsockname()[1]
            if len(host) != 1 or host[0].lower() not in {f"{name}:{port}" for name in (ADDRESS, "localhost")}:
                return self._answer(HTTPStatus.FORBIDDEN, b"this server answers to 127.0.0.1 and localhost only\n")
            if self.path not in ("/", "/data.json"):
                return self._answer(HTTPStatus.NOT_FOUND, b"there is / and /data.json\n")
            try:
                tag, data = latest()
            except (OSError, ValueError) as error:  # all runs were removed: they may come back
                return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode(errors="replace"))
            etag = f'"{tag}"'
            if self.path == "/":
                return self._answer(HTTPStatus.OK, page(data, title, live=True), "text/html; charset=utf-8", etag)
            if self.headers.get("If-None-Match") == etag:
                return self._answer(HTTPStatus.NOT_MODIFIED, b"", etag=etag)
            self._answer(HTTPStatus.OK, embedded(data).encode(), "application/json", etag)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            self.close_connection = True  # what it sends is not read
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"read only\n")

        do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = do_POST

        def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8", etag: str = "") -> None:
            self.send_response(status)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            if not kind.startswith("text/html"):
                self.send_header("Content-Security-Policy", "default-src 'none'")
            if self.close_connection:
                self.send_header("Connection", "close")
            if etag:
                self.send_header("ETag", etag)
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            self.send_header("Content-Type", kind)
            if status != HTTPStatus.NOT_MODIFIED:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            """What the server itself refuses (a method, a request too long): plain text, with the same headers."""
            self.close_connection = True
            self._answer(HTTPStatus(code), b"this is no request that is answered here\n")

        def version_string(self) -> str:
            return "ssl-bench"

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: a line every three seconds helps nobody."""

    return Handler


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-bench watch``: serves until Ctrl-C (then 130); 2 after one line where there is nothing to show, 1 where the port is taken."""
    parser = WordParser(prog="ssl-bench watch", description="The report of runs that go on, for this machine's browser only.")
    add_arguments(parser)
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help="of 127.0.0.1; 0: any that is free (default: %(default)s)")
    options = parser.parse_args(argv)
    if not 0 <= options.port <= 65535:
        return refuse("ssl-bench watch", f"--port is 0 to 65535, got {options.port}", 2)
    try:
        serving = server(options.folders, options.title, published.read_all(options.published), options.port)
    except (OSError, ValueError) as error:
        taken = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        what = f"port {options.port} is not free: name another with --port, or 0 for any" if taken else str(error)
        return refuse("ssl-bench watch", what, 1 if taken else 2)
    print(f"http://{ADDRESS}:{serving.server_address[1]}/  (Ctrl-C ends it)", flush=True)
    try:
        serving.serve_forever()
    except KeyboardInterrupt:
        return 130
    finally:
        serving.server_close()
    return 0
