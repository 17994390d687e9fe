"""A web server on this machine whose answers a test chooses: ranges or not, errors, cut and stalled connections."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """files: path -> content, served at `url`/path.  log: (path, Range header or None) of each request, in order."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    wrong_range: bool = False  # answers another range than was asked for
    cuts: list[int] = field(default_factory=list)  # bytes each next answer is cut after
    then_dead: bool = False  # once those are used up, 503
    stall: bool = False  # nothing comes of the second half of the content
    log: list[tuple[str, str | None]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def add(self, path: str, content: bytes) -> str:
        self.files[path] = content
        return f"{self.url}/{path}"


@contextmanager
def serve() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked = self.headers.get("Range")
            path = self.path.lstrip("/")
            site.log.append((path, asked))
            content = site.files.get(path)
            if content is None or site.then_dead and not site.cuts:
                self.send_error(404 if content is None else 503)
                return
            start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and site.ranges else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            body = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start - 5 * site.wrong_range}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if site.stall:
                self.wfile.write(content[start : len(content) // 2])
                self.wfile.flush()
                site.stopped.wait(30)
            else:
                self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
