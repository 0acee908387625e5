"""The HTTP protocol of the server, with a time limit for the headers of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 10
"""Maximum time from the start of a connection, or from the previous response, until the
headers of a request are complete."""


class Protocol(HttpToolsProtocol):
    """Closes connections whose client sends no request within `HEADER_SECONDS`.

    In uvicorn, clients that send nothing, or incomplete headers, keep their connections,
    and could thus use up the maximum number of connections.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts the timer."""
        super().connection_made(transport)
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Stops the timer, because the request is complete except for its body."""
        self._timer.cancel()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Starts the timer for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete:  # no other request was received meanwhile
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer."""
        super().connection_lost(exc)
        self._timer.cancel()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)
