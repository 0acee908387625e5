"""Runs the service with uvicorn until a signal stops it."""

from __future__ import annotations

import errno
import importlib.util
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

from skincnn.errors import ConfigError
from skincnn.interruption import StopRequest

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

PACKAGES = ("fastapi", "httptools", "prometheus_client", "python_multipart", "uvicorn")
MIN_TOKEN_LENGTH = 16
MAX_CONNECTIONS = 512
"""Maximum number of open connections; further ones get the status 503."""
PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)
"""Error numbers of a port that another program uses, or that only root may use."""
DRAIN_SECONDS = 150
"""Maximum time for completing the requests in progress after a signal."""
EXPOSED = (
    "warning: other computers can reach this server, and connections are not encrypted: "
    "use a reverse proxy with TLS. The token is required for /v1/predict, /v1/explain, "
    "/v1/model and /metrics, but not for the page, /healthz, /readyz and /openapi.json."
)


def check_requirements() -> None:
    """Raises a `ConfigError` if the packages of the extra `serve` are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The server requires {', '.join(missing)}. Install: pip install -e .[serve]"
        )


def check_token(listener: socket.socket, token: str) -> str:
    """Returns a warning about what is exposed to other computers; "" if nothing is.

    Raises:
        ConfigError: Other computers can reach the server without a token, or the token is
            too short.
    """
    from skincnn.serving.web.guard import is_loopback

    host = listener.getsockname()[0]
    if token and len(token) < MIN_TOKEN_LENGTH:
        raise ConfigError(
            f"--token must have at least {MIN_TOKEN_LENGTH} characters. Received: "
            f"{len(token)} characters. Generate one: openssl rand -hex 32"
        )
    if is_loopback(host):
        return ""
    if not token:
        raise ConfigError(
            f"--host {host}: other computers can reach this address, so --token (or the "
            "environment variable SKINCNN_TOKEN) is required. Generate a token: openssl "
            "rand -hex 32"
        )
    return EXPOSED


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to a host and port; 0 selects any free port.

    The socket does not listen yet, so that clients are refused while the model is loaded.

    Raises:
        ConfigError: The host does not exist, or the port is invalid or not available.
    """
    if not 0 <= port < 65536:
        raise ConfigError(f"--port must be in 0..65535. Received: {port}.")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = addresses[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # where it allows two servers on one port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # Python cannot encode a name like "a..b"
        advice = "Use another --port, or --port 0 for any free port."
        if not isinstance(error, OSError) or error.errno not in PORT_ERRORS:
            advice = "Use an address of this computer as --host, such as 127.0.0.1."
        reason = getattr(error, "strerror", None) or "this is not a valid name"
        raise ConfigError(
            f"--host {host} --port {port} is not available: {reason}. {advice}"
        ) from error
    return listener


def make_server(app: FastAPI) -> uvicorn.Server:
    """Returns a server for an application from `build_app`.

    Environment variables, such as those of proxies, have no effect.
    """
    import uvicorn

    from skincnn.serving.web.protocol import Protocol

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        workers=1,
        proxy_headers=False,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return uvicorn.Server(config)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serves an application from `build_app` until a signal stops it.

    After the signal, requests in progress are completed.

    Raises:
        Terminated, KeyboardInterrupt: SIGTERM or Ctrl-C stopped the server.
    """
    server = make_server(app)
    stop, handle_exit = StopRequest(), server.handle_exit

    def record_signal(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        app.state.service.stopping = True
        handle_exit(number, frame)

    server.handle_exit = record_signal
    server.run([listener])
    # uvicorn usually raises the signal again, but sometimes returns instead.
    if stop.requested:
        stop.exit()
