"""A local web page that predicts uploaded images.

Gradio renders the page, `uploads` stores the images, and `guard` rejects requests that do
not come from the page.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from skincnn.clinical_metadata import CLINICAL_COLUMNS, REGION_OF, SEXES, UNKNOWN
from skincnn.errors import ConfigError, DataError
from skincnn.interruption import StopRequest
from skincnn.serving.images import MAX_BYTES
from skincnn.serving.web import uploads
from skincnn.serving.web.guard import check_predict_requests, guard
from skincnn.serving.web.page import FAILED, PageModel, render, render_prediction

HOST = "127.0.0.1"
"""The loopback interface, which other computers cannot reach."""
MAX_AGE_YEARS = 120
"""Maximum age of a patient in the clinical metadata."""


def check_requirements() -> None:
    """Raises a `ConfigError` if directories cannot be locked or Gradio is not installed."""
    if importlib.util.find_spec("fcntl") is None:
        raise ConfigError(
            "The page requires Linux or macOS to lock the directory of uploads. Received: "
            f"{sys.platform}. On Windows, use WSL."
        )
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(
            "The page requires Gradio. To install it and serve the page, run: make demo "
            "MODEL=runs/mobilenet_160. Without make, run: pip install 'gradio>=6.31' and "
            "then pip install 'pillow>=13'"
        )


def listen(port: int) -> socket.socket:
    """Returns a socket that listens on a port of `HOST`; 0 selects any free port.

    Raises:
        ConfigError: The port is invalid or not available.
    """
    if not 0 <= port < 65536:
        raise ConfigError(f"--port must be in 0..65535. Received: {port}.")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(
            f"--port {port} is not available: {error.strerror}. Use another --port, "
            "or --port 0 for any free port."
        ) from error


def serve(model: PageModel, path: Path, listener: socket.socket) -> None:
    """Serves the page until a signal stops it, then raises as `StopRequest.exit` does.

    Args:
        model: The model that predicts uploaded images.
        path: Path of the model, for display on the page.
        listener: The socket from `listen`.
    """
    with uploads.make_folder() as folder:
        # Gradio reads these variables when it is imported and when it builds a page.
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import uvicorn

        config = uvicorn.Config(
            build_app(model, path, folder),
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,  # in seconds; open pages keep their connections
        )
        server = uvicorn.Server(config)
        stop, handle_exit = StopRequest(), server.handle_exit

        def record_signal(number: int, frame: FrameType | None) -> None:
            stop.signal = number
            handle_exit(number, frame)

        server.handle_exit = record_signal
        server.run([listener])
        # uvicorn usually raises the signal again, but sometimes returns instead.
        if stop.requested:
            stop.exit()


def build_app(model: PageModel, path: Path, folder: Path) -> Any:
    """Returns the page as an ASGI application.

    Args:
        model: The model that predicts uploaded images.
        path: Path of the model, for display on the page.
        folder: Directory of uploads, from `uploads.make_folder`.
    """
    import fastapi
    import gradio
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Prevents DNS rebinding, in which the name of another site resolves to this address.
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app = fastapi.FastAPI(openapi_url=None, middleware=[trusted])
    blocks = build_page(model, path, folder)
    # These routes replace those of Gradio, which keep interrupted uploads and store
    # identical files only once: a prediction would delete the file of other uploads.
    endpoint = uploads.make_upload_endpoint(folder, blocks.upload_file_set)
    app.add_route(uploads.UPLOAD_PATH, endpoint, methods=["POST"])
    app.add_route(uploads.PROGRESS_PATH, uploads.report_progress)
    page = gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,  # The browser would store the history.
        enable_monitoring=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"openapi_url": None},
        # System fonts, because other fonts would be downloaded.
        theme=gradio.themes.Base(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=Path(__file__).with_name("page.css").read_text(),
    )
    num_fields = len(CLINICAL_COLUMNS) if model.predictor.clinical_metadata else 0
    return guard(check_predict_requests(page, folder, num_fields))


def build_page(model: PageModel, path: Path, folder: Path) -> Any:
    """Returns the page as `gradio.Blocks`; see `build_app` for the arguments."""
    import gradio

    predictor = model.predictor
    content = {
        "synthetic": predictor.synthetic,
        "has_referral": predictor.rule.target is not None,
        "classes": [known.full_name for known in predictor.rule.described.values()],
        "path": path,
    }
    delete_cache = (uploads.MAX_AGE_SECONDS, uploads.MAX_AGE_SECONDS)
    with gradio.Blocks(
        title="skincnn", analytics_enabled=False, delete_cache=delete_cache
    ) as page:
        gradio.HTML(render("start", **content))
        fields = _metadata_fields(gradio) if predictor.clinical_metadata else []
        # Not an image field, because Gradio decodes images without a size limit.
        upload = gradio.File(label="Image", file_types=["image"], height=160)
        prediction = gradio.HTML(elem_id="prediction")
        upload.upload(
            make_handler(model, folder),
            [upload, *fields],
            [upload, prediction],
            preprocess=False,  # Preprocessing would leave a copy of each upload.
            concurrency_limit=1,
            show_progress_on=prediction,
            api_visibility="private",
        )
    return page


def make_handler(model: PageModel, folder: Path) -> Callable[..., tuple[None, str]]:
    """Returns the function that the page calls with an upload and the metadata fields.

    The function returns None, which clears the upload field, and the result as HTML.
    """

    def handle(upload: uploads.Upload, *fields: str | None) -> tuple[None, str]:
        try:
            content, name = uploads.take(upload, folder)
            clinical_metadata = parse_clinical_metadata(fields)
            return None, render_prediction(model, content, name, clinical_metadata)
        except DataError as error:
            return None, render("error", message=str(error))
        except Exception:  # The server continues after any error.
            logging.getLogger(__name__).exception("A prediction failed.")
            return None, render("error", message=FAILED)

    return handle


def parse_clinical_metadata(fields: Sequence[str | None]) -> dict[str, str | int | None]:
    """Maps clinical columns to the values of the metadata fields; omits an empty age.

    Args:
        fields: Age, sex and site; empty for a model without clinical metadata.

    Raises:
        DataError: The age is not a whole number of years in 0..`MAX_AGE_YEARS`.
    """
    values: dict[str, str | int | None] = dict(zip(CLINICAL_COLUMNS, fields, strict=False))
    age = str(values.pop("age", None) or "").strip()
    if not age:
        return values
    if not age.isdecimal() or int(age) > MAX_AGE_YEARS:
        raise DataError(
            f"The age must be a whole number of years in 0..{MAX_AGE_YEARS}, or empty. "
            f"Received: {age}. Upload the image again."
        )
    return {**values, "age": int(age)}


def _metadata_fields(gradio: Any) -> list[Any]:
    sites = [UNKNOWN, *REGION_OF]
    gradio.HTML(render("clinical_metadata"))
    with gradio.Row():
        return [
            # Not a number field, because an empty number field shows 0.
            gradio.Textbox(label="Age in years", placeholder=UNKNOWN, max_lines=1),
            gradio.Dropdown([UNKNOWN, *SEXES], value=UNKNOWN, label="Sex"),
            gradio.Dropdown(sites, value=UNKNOWN, label="Site on the body"),
        ]
