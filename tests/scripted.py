"""A server that answers each request as a test says, byte for byte, and remembers what it was asked."""

import contextlib
import re
import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self


class Scripted:
    """Use it as a context manager.

    Attributes:
        url: where it listens.
        asked: each request's head as text, in order.
    """

    def __init__(self, answer: Callable[[str, int], bytes | Iterable[bytes]]) -> None:
        """Args: gives the bytes for a request's target (`/items?page=2`) and its number, from 1; none hangs up.

        What is no single text of bytes is sent piece by piece, until the client has gone.
        """
        self.asked = list[str]()
        script = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the client has gone
                    while head := self._head():
                        script.asked.append(head)
                        length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
                        self.rfile.read(int(length[1]) if length else 0)
                        said = answer(head.split(" ")[1], len(script.asked))
                        for piece in [said] if isinstance(said, bytes) else said:
                            self.wfile.write(piece)
                        if not isinstance(said, bytes) or not said or b"connection: close" in said.lower():
                            return

            def _head(self) -> str:
                lines = []
                while (line := self.rfile.readline().decode("latin-1")).strip():
                    lines.append(line)
                return "".join(lines)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address = True, True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Listen."""
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def http(body: bytes | str = b"", status: str = "200 OK", **headers: Any) -> bytes:
    """A whole answer; `content_type` becomes `content-type`, and `content_length` is the body's unless it is given."""
    body = body.encode() if isinstance(body, str) else body
    given = {"content_length": len(body)} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body
