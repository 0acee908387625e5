"""A page on this computer alone that shows a picture to a model and says what it says.

Gradio makes the page; `uploads` keeps what is dropped on it, and `guard` lets through what
it sends and nothing else.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from skincnn.classes import describe
from skincnn.clinical_metadata import CLINICAL_COLUMNS, REGION_OF, SEXES, UNKNOWN
from skincnn.errors import ConfigError, DataError
from skincnn.interruption import StopRequest
from skincnn.serving.images import MAX_BYTES
from skincnn.serving.web.guard import guarded, questioned
from skincnn.serving.web.page import FAILED, Asked, answer_page, render
from skincnn.serving.web.uploads import (
    ABANDONED,
    PROGRESS,
    UPLOAD,
    Upload,
    make_folder,
    storing,
    take,
    uploaded,
)

HOST = "127.0.0.1"
"""Loopback: nobody else can reach the page."""
MAX_AGE = 120


def require() -> None:
    """Checks that folders can be locked here, and that Gradio is installed.

    Raises:
        ConfigError: They cannot, or it is not.
    """
    if importlib.util.find_spec("fcntl") is None:
        raise ConfigError(
            "The page needs Linux or macOS, where its folder for uploads can be locked. "
            f"Received: {sys.platform}. On Windows run it within WSL."
        )
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(
            "The page needs gradio. Install and open it: make demo MODEL=runs/cpu; or, "
            "without make: pip install 'gradio>=6.31', then pip install 'pillow>=13'"
        )


def listen(port: int) -> socket.socket:
    """Returns a socket on a port of `HOST`; of 0, on any that is free.

    Raises:
        ConfigError: The port is in use, or is none.
    """
    if not 0 <= port < 65536:
        raise ConfigError(f"--port must be 0..65535. Received: {port}.")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(
            f"--port {port} cannot be had: {error.strerror}. Give another, or 0 for any "
            "that is free."
        ) from error


def serve(asked: Asked, path: Path, listening: socket.socket) -> None:
    """Serves the page until a signal ends it.

    Args:
        asked: The model.
        path: Where it is, to be shown.
        listening: From `listen`.

    Raises:
        KeyboardInterrupt: It was Ctrl-C.
        Terminated: It was SIGTERM.
    """
    with make_folder() as folder:
        # Gradio looks for these when it is imported, and when it makes a page.
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import uvicorn

        config = uvicorn.Config(
            build_app(asked, path, folder),
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,  # pages that are open hold a connection
        )
        server = uvicorn.Server(config)
        stop, handle = StopRequest(), server.handle_exit

        def remember(number: int, frame: FrameType | None) -> None:
            stop.signal = number
            handle(number, frame)

        server.handle_exit = remember
        server.run([listening])
        # It raises the signal again, and has been seen to return all the same.
        if stop.requested:
            stop.exit()


def build_app(asked: Asked, path: Path, folder: Path) -> Any:
    """Returns the page as an ASGI application.

    Args:
        asked: The model.
        path: Where it is, to be shown.
        folder: Where uploads go: $GRADIO_TEMP_DIR.
    """
    import fastapi
    import gradio
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # Of another name a page elsewhere could make this address, and read the answers.
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app = fastapi.FastAPI(openapi_url=None, middleware=[trusted])
    blocks = build_page(asked, path, folder)
    # Before Gradio's own, which keep what was cut off, and put what is the same in one
    # place, where the first who asks deletes it for the others.
    app.add_route(UPLOAD, storing(folder, blocks.upload_file_set), methods=["POST"])
    app.add_route(PROGRESS, uploaded)
    page = gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,  # which browsers keep
        enable_monitoring=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"openapi_url": None},
        # Fonts of the computer: the others would be asked for elsewhere.
        theme=gradio.themes.Base(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=importlib.resources.files("skincnn.serving.web")
        .joinpath("demo.css")
        .read_text(),
    )
    num_fields = len(CLINICAL_COLUMNS) if asked.predictor.told else 0
    return guarded(questioned(page, folder, num_fields))


def build_page(asked: Asked, path: Path, folder: Path) -> Any:
    """Returns the components of the page; see `build_app`."""
    import gradio

    predictor = asked.predictor
    described = describe(predictor.class_names).values()
    start = render(
        "start",
        synthetic=predictor.synthetic,
        classes=[one.full_name for one in described],
        path=path,
    )
    with gradio.Blocks(
        title="skincnn",
        analytics_enabled=False,
        delete_cache=(ABANDONED, ABANDONED),
    ) as page:
        gradio.HTML(start)
        told = _patient_fields(gradio) if predictor.told else []
        # The file itself: a component for pictures would decode it before any limit.
        upload = gradio.File(label="Picture", file_types=["image"], height=160)
        answer = gradio.HTML(elem_id="answer")
        upload.upload(
            answering(asked, folder),
            [upload, *told],
            [upload, answer],
            preprocess=False,  # which would leave a file behind for each upload
            concurrency_limit=1,
            show_progress_on=answer,
            api_visibility="private",
        )
    return page


def answering(asked: Asked, folder: Path) -> Callable[..., tuple[None, str]]:
    """Returns what the page calls with an upload, and what it knows of the patient."""

    def answer(upload: Upload, *patient: Any) -> tuple[None, str]:
        try:
            content, name = take(upload, folder)
            return None, answer_page(asked, content, name, describe_patient(patient))
        except DataError as error:
            return None, render("failed", message=str(error))
        except Exception:  # whatever it is, the page goes on
            logging.getLogger(__name__).exception("A picture could not be answered.")
            return None, render("failed", message=FAILED)

    return answer


def describe_patient(fields: Sequence[str | None]) -> dict[str, Any]:
    """Returns `CLINICAL_COLUMNS` from `_patient_fields`, of which there may be none.

    Raises:
        DataError: The age is none that people have.
    """
    patient: dict[str, Any] = dict(zip(CLINICAL_COLUMNS, fields, strict=False))
    written = (patient.pop("age", "") or "").strip()
    if not written:
        return patient
    if not written.isdecimal() or int(written) > MAX_AGE:
        raise DataError(
            f"The age must be 0..{MAX_AGE} whole years, or empty. Received: {written}. "
            "Drop the picture again."
        )
    return {**patient, "age": int(written)}


def _patient_fields(gradio: Any) -> list[Any]:
    """Returns a field for each of `CLINICAL_COLUMNS`."""
    sites = [UNKNOWN, *REGION_OF]
    gradio.HTML(render("patient"))
    with gradio.Row():
        return [
            # No field for numbers: an empty one shows 0.
            gradio.Textbox(label="Age in years", placeholder=UNKNOWN, max_lines=1),
            gradio.Dropdown([UNKNOWN, *SEXES], value=UNKNOWN, label="Sex"),
            gradio.Dropdown(sites, value=UNKNOWN, label="Site on the body"),
        ]
