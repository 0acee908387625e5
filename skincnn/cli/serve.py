"""Serves a model over HTTP, with an API and a web page."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import require_packages
from skincnn.preconditions import require_local_sockets

PACKAGES = ("fastapi", "httptools", "prometheus_client", "python_multipart", "uvicorn")
"""Packages of the extra `serve` that the server requires."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    r"""Serves a model over HTTP: an API, and a web page on which to predict images.

    The page shows the calibrated probability of each class, the referral decision and its
    reason, whether the image is out-of-distribution, and Grad-CAM if MODEL is a run
    directory or model.keras. Images are decoded in memory, not stored, and not sent to
    other computers. Ctrl-C or SIGTERM completes the requests in progress and stops the
    server. Requires pip install -e '.[serve]'. Not a medical device.

    For example:
      skincnn serve runs/mobilenet_160
      curl -F images=@a.jpg -F images=@b.jpg http://127.0.0.1:8000/v1/predict
      SKINCNN_TOKEN=$(openssl rand -hex 32) skincnn serve runs/mobilenet_160 \
          --host 0.0.0.0
    """

    model: tyro.conf.Positional[Path]
    """A SavedModel, the directory of a run or of an exported ensemble, the model.keras of a
    run, or a LiteRT or ONNX file."""
    host: str = "127.0.0.1"
    """Address of the server. Addresses that other computers can reach, such as 0.0.0.0,
    require a token."""
    port: int = 8000
    """Port of the server; 0 for any free port."""
    token: str = ""
    """Secret of at least 16 ASCII characters that API requests must contain (Authorization:
    Bearer TOKEN). By default, the environment variable SKINCNN_TOKEN, which other users of
    the computer cannot see."""


def command() -> None:
    """Parses the arguments, loads the model, and serves it until a signal stops it."""
    arguments = parse_arguments(Arguments)
    require_packages(PACKAGES, "The server", "serve")
    require_local_sockets()
    common.load_tensorflow([arguments.model])
    from skincnn.serving.web import server

    # If the shell reads the token from a file that ends with \r\n, it removes only the \n.
    token = (arguments.token or os.environ.get("SKINCNN_TOKEN", "")).strip()
    with server.bind(arguments.host, arguments.port) as listener:
        warning = server.check_token(listener, token)
        from skincnn.serving.web.app import build_app
        from skincnn.serving.web.model import load_served_model

        app = build_app(load_served_model(arguments.model), token)
        if warning:
            print(warning, file=sys.stderr)
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"page  {url}  API  {url}/openapi.json  (Ctrl-C: stop)", flush=True)
        server.serve(app, listener)
