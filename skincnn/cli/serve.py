"""Serves a local web page that predicts the classes of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.cli import common


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Serves a page on 127.0.0.1 that predicts the classes of uploaded images.

    The page shows the calibrated probability of each class, the referral decision and its
    reasons, whether the image is out-of-distribution, and Grad-CAM if MODEL is a run
    directory or model.keras. Uploads are deleted once read; no data leaves the computer.
    Ctrl-C stops the server. Requires Linux, macOS, or WSL on Windows. Not a medical device.

    For example:
      python scripts/serve.py runs/mobilenet_160
      python scripts/serve.py runs/mobilenet_160/export/skincnn.onnx --port 0
    """

    model: tyro.conf.Positional[Path]
    """A SavedModel, a run directory or its model.keras, or a LiteRT or ONNX file."""
    port: int = 7860
    """Port of the page; 0 for any free port."""


def command() -> None:
    """Parses the arguments, loads the model, and serves the page until it is stopped."""
    arguments = tyro.cli(Arguments)
    common.load_tensorflow()
    from skincnn.serving.web import app
    from skincnn.serving.web.page import load_page_model

    app.check_requirements()
    with app.listen(arguments.port) as listener:
        model = load_page_model(arguments.model)
        host, port = listener.getsockname()
        print(f"page  http://{host}:{port}  (Ctrl-C stops the server)", flush=True)
        app.serve(model, arguments.model, listener)
