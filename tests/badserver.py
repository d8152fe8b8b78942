"""A web server on this machine that serves one archive and misbehaves as the address says."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STEP = 4096


class BadServer(ThreadingHTTPServer):
    """Serves ``content`` under ``/<behaviour>``, and keeps (behaviour, Range header) of every request."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.requests: list[tuple[str, str | None]] = []
        self.closing = threading.Event()

    def url(self, behaviour: str) -> str:
        """Address under which the server behaves so."""
        return f"http://127.0.0.1:{self.server_port}/{behaviour}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent when a client goes away in the middle, which is what the tests make it do."""


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[BadServer]:
    """Run a server in a thread for as long as the block lasts."""
    with BadServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Every method named for a behaviour answers one GET request."""

    server: BadServer

    def do_GET(self) -> None:
        # A request to a proxy names the whole address.
        behaviour = self.path.rpartition("/")[2]
        self.server.requests.append((behaviour, self.headers["Range"]))
        wanted = self.headers["Range"]
        self.start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        getattr(self, behaviour)()

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""

    def head(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def begin(self, start: int) -> None:
        if start:
            span = f"bytes {start}-{len(self.server.content) - 1}/{len(self.server.content)}"
            self.head(206, {"Content-Length": len(self.server.content) - start, "Content-Range": span})
        else:
            self.head(200, {"Content-Length": len(self.server.content)})

    def good(self) -> None:
        self.begin(self.start)
        self.wfile.write(self.server.content[self.start :])

    def error(self) -> None:
        self.send_error(503)

    def page(self) -> None:
        page = b"<html>please log in</html>"
        self.head(200, {"Content-Type": "text/html", "Content-Length": len(page)})
        self.wfile.write(page)

    def other_length(self) -> None:
        self.head(200, {"Content-Length": 10})
        self.wfile.write(bytes(10))

    def no_length(self) -> None:
        self.head(200, {})
        self.wfile.write(self.server.content)

    def endless(self) -> None:
        self.head(200, {})
        while not self.server.closing.is_set():
            self.wfile.write(self.server.content)

    def breaks(self) -> None:
        """Break off after a third of the archive each time."""
        self.begin(self.start)
        self.wfile.write(self.server.content[self.start : self.start + len(self.server.content) // 3])

    def breaks_at_once(self) -> None:
        self.begin(self.start)

    def corrupt(self) -> None:
        wrong = bytes([self.server.content[-1] ^ 1])
        self.begin(self.start)
        self.wfile.write(self.server.content[self.start : -1] + wrong)

    def ignores_range(self) -> None:
        self.begin(0)
        self.wfile.write(self.server.content)

    def wrong_range(self) -> None:
        if not self.start:
            self.good()
            return
        span = f"bytes 0-{len(self.server.content) - 1}/{len(self.server.content)}"
        self.head(206, {"Content-Length": len(self.server.content), "Content-Range": span})
        self.wfile.write(self.server.content)

    def refuses_range(self) -> None:
        if self.start:
            self.send_error(416)
        else:
            self.good()

    def redirect(self) -> None:
        self.head(302, {"Location": self.server.url("good"), "Content-Length": 0})

    def redirect_away(self) -> None:
        self.head(302, {"Location": "file:///etc/passwd", "Content-Length": 0})

    def redirect_circle(self) -> None:
        self.head(302, {"Location": self.server.url("redirect_circle"), "Content-Length": 0})

    def nonsense(self) -> None:
        self.wfile.write(b"HELLO\r\n\r\n")

    def silent(self) -> None:
        self.server.closing.wait(30)

    def drips(self) -> None:
        """Send headers that never end, a byte at a time."""
        self.send_response(200)
        self.flush_headers()
        while not self.server.closing.wait(0.1):
            self.wfile.write(b"x")

    def stalls(self) -> None:
        self.begin(self.start)
        self.wfile.write(self.server.content[self.start : self.start + STEP])
        self.server.closing.wait(30)

    def crawls(self) -> None:
        self.begin(self.start)
        for position in range(self.start, len(self.server.content), STEP):
            self.wfile.write(self.server.content[position : position + STEP])
            if self.server.closing.wait(0.02):
                return
