"""Opens a page on this computer on which a model is asked about pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.cli import common


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Serves a page on 127.0.0.1: drop a picture and see what the model says, and why.

    It shows the calibrated probability of each class, whether to refer and why, whether
    the picture looks like dermatoscopy at all, and Grad-CAM of a run's folder. An upload
    is deleted when it was read, and nothing is sent anywhere. Ctrl-C ends it. It needs
    Linux or macOS; on Windows, WSL. Not a medical device.

    For example:
      python scripts/serve.py runs/cpu
      python scripts/serve.py runs/cpu/export/skincnn.onnx --port 0
    """

    model: tyro.conf.Positional[Path]
    """A SavedModel, a run's folder or model.keras, or a LiteRT or ONNX file."""
    port: int = 7860
    """Of the page's address; 0 for any that is free."""


def command() -> None:
    """Parses, loads the model, and serves until it is stopped."""
    arguments = tyro.cli(Arguments)
    common.load_tensorflow()
    from skincnn.serving.web import app
    from skincnn.serving.web.page import open_model

    app.require()
    with app.listen(arguments.port) as listening:
        asked = open_model(arguments.model)
        host, port = listening.getsockname()
        print(f"page  http://{host}:{port}  (Ctrl-C ends it)", flush=True)
        app.serve(asked, arguments.model, listening)
