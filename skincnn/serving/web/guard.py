"""Access control of the service, headers for browsers, and metrics for Prometheus."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from http import HTTPStatus
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skincnn.serving.web.form import discard_body
from skincnn.serving.web.schemas import Problem

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of each response: the page loads nothing from other sites, and browsers store
no response."""
PROTECTED = ("/v1/", "/metrics")
"""Beginnings of the paths that require the token. The page and the health checks contain no
secrets."""
HEALTH_CHECKS = ("/healthz", "/readyz")
"""Paths that also proxies and HTTP/1.0 clients without the header `Host` may request."""
KNOWN_PATHS = ("/", "/v1/predict", "/v1/explain", "/v1/model", "/metrics", "/openapi.json")
"""Paths that the metrics count separately; all others are counted as "other"."""


class ServiceMetrics(CollectorRegistry):
    """Metrics of the server: requests and their times, images, batches, CPU and memory."""

    def __init__(self) -> None:
        super().__init__()
        ProcessCollector(registry=self)
        self.requests = Counter(
            "skincnn_requests", "Requests.", ["path", "status"], registry=self
        )
        self.seconds = Histogram(
            "skincnn_request_seconds",
            "Time from the headers of a request to the end of its response.",
            ["path"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self,
        )
        self.images = Counter(
            "skincnn_images",
            "Images by the reason for their referral decision.",
            ["reason"],
            registry=self,
        )
        self.batches = Histogram(
            "skincnn_batch_images",
            "Images that were predicted together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self,
        )


class Guard:
    """ASGI middleware that checks access, adds `HEADERS` and counts requests.

    With a token, requests to `PROTECTED` paths must contain the token (RFC 6750). Without a
    token, all requests except `HEALTH_CHECKS` must name a loopback address as host, which
    prevents DNS rebinding, and must not come from another web page.
    """

    def __init__(self, app: ASGIApp, token: str, metrics: ServiceMetrics):
        self._app = app
        self._token = token
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self._respond(scope, receive, send_with_headers)
        except Exception:  # The server continues after any error.
            logging.getLogger(__name__).exception("A request failed.")
            if not status:
                text = "The request failed. The log of the server shows the error."
                await problem_response(500, text)(scope, receive, send_with_headers)
        finally:
            path = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: ASGIApp = self._app
        headers = Headers(scope=scope)
        if self._token:
            if scope["path"].startswith(PROTECTED) and not self._has_token(headers):
                response = problem_response(
                    401,
                    "Send the token of the server in the header "
                    "Authorization: Bearer TOKEN.",
                    {"WWW-Authenticate": "Bearer"},
                )
        elif scope["path"] not in HEALTH_CHECKS and (refused := refused_header(headers)):
            text = (
                "Requests to this server must come from its own page or a local program. "
                f"Received: {refused}. If the server is used through a forwarded port or a "
                "proxy, start it with --token TOKEN or the environment variable "
                "SKINCNN_TOKEN, which permits all hosts and origins."
            )
            response = problem_response(403, text)
        if response is not self._app:
            await discard_body(Request(scope, receive))
        await response(scope, receive, send)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        is_equal = secrets.compare_digest(token.strip().encode(), self._token.encode())
        return scheme.lower() == "bearer" and is_equal


def problem_response(
    status: int, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Returns an error response with a `Problem` as body."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(
        problem.model_dump(), status, headers, media_type="application/problem+json"
    )


def refused_header(headers: Headers) -> str:
    """Returns the header that a request from this computer cannot have; "" if none.

    `Host` must be a loopback address and `Origin`, if given, the same. Only browsers send
    the header `Origin`.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        return f"Host: {host}"
    return "" if origin in (None, f"http://{host}") else f"Origin: {origin}"


def is_loopback(host: str) -> bool:
    """Returns whether a host is "localhost" or a loopback address, such as 127.0.0.1."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
