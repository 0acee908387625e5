"""A page on this computer alone that shows a picture to a model and says what it says.

An upload lies in a folder that goes with the server, and is deleted when it was read.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.resources
import importlib.util
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from skincnn.classes import describe
from skincnn.errors import ConfigError, DataError
from skincnn.patient import METADATA_COLUMNS, REGION_OF, SEXES, UNKNOWN
from skincnn.serving.page import FAILED, Asked, answer_page, render
from skincnn.serving.pictures import MAX_BYTES

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""By ASGI: what answers is called with `scope`, `receive` and `send`."""
HOST = "127.0.0.1"
"""Loopback: nobody else can reach the page."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'"
)
"""What a browser may load for the page: nothing from elsewhere. Gradio writes scripts and
styles into the page itself."""
UPLOAD, ASK = "/gradio_api/upload", "/gradio_api/queue/join"
"""What the page sends to. Gradio has more addresses, such as one that stores recordings."""
DEEP_LINK = "/gradio_api/deep_link"
"""Where Gradio stores for good what is in the fields of the page, the patient's too."""
PROGRESS = "/gradio_api/upload_progress"
"""Where the page listens while it sends an upload."""
MAX_QUESTION = 2**16
"""Bytes of what the page sends to `ASK`: where an upload lies, and a patient."""
ABANDONED = 600
"""Seconds after which an upload that was not answered is deleted."""
FOLDER = "skincnn-page-"
"""How folders for uploads begin, of which each server has one."""
MULTIPART = 2**16
"""Bytes that an upload may have around the file."""
MAX_AGE = 120
GONE = "The upload is not there any more. Drop the picture again."
Upload = Mapping[str, Any]
"""What Gradio says of an upload: `path`, where it lies, and `orig_name`."""


def require() -> None:
    """Checks that Gradio is installed.

    Raises:
        ConfigError: It is not.
    """
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
        uvicorn.Server(config).run([listening])


@contextlib.contextmanager
def make_folder() -> Iterator[Path]:
    """Yields a folder for uploads, without those of servers that were killed."""
    temporary = Path(tempfile.gettempdir())
    for one in temporary.glob(f"{FOLDER}????????"):
        with contextlib.suppress(OSError), _locked(one):
            shutil.rmtree(one)
    # Under another name until it is locked, so that nobody takes it for abandoned.
    made = Path(tempfile.mkdtemp(prefix=f"new-{FOLDER}"))
    with _locked(made):
        folder = made.rename(temporary / made.name.removeprefix("new-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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
    app.add_route(UPLOAD, _storing(folder, blocks.upload_file_set), methods=["POST"])
    app.add_route(PROGRESS, _uploaded)
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
        css=importlib.resources.files("skincnn.serving").joinpath("demo.css").read_text(),
    )
    num_fields = len(METADATA_COLUMNS) if asked.predictor.told else 0
    return _guarded(_questioned(page, folder, num_fields))


def build_page(asked: Asked, path: Path, folder: Path) -> Any:
    """Returns the components of the page; see `build_app`."""
    import gradio

    predictor = asked.predictor
    described = describe(predictor.class_names).values()
    start = render(
        "start",
        made_up=predictor.made_up,
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
    """Returns `METADATA_COLUMNS` from `_patient_fields`, of which there may be none.

    Raises:
        DataError: The age is none that people have.
    """
    patient: dict[str, Any] = dict(zip(METADATA_COLUMNS, fields, strict=False))
    written = (patient.pop("age", "") or "").strip()
    if not written:
        return patient
    if not written.isdecimal() or int(written) > MAX_AGE:
        raise DataError(
            f"The age must be 0..{MAX_AGE} whole years, or empty. Received: {written}. "
            "Drop the picture again."
        )
    return {**patient, "age": int(written)}


def is_own(headers: Mapping[str, str]) -> bool:
    """Returns whether what is sent is not from a page of another address.

    Browsers say with `Origin` whose page sends; what is no browser need not say it.
    """
    origin = headers.get("origin")
    return origin is None or origin == f"http://{headers.get('host')}"


def check_question(sent: bytes, folder: Path, num_fields: int) -> bytes:
    """Returns what was sent to `ASK` with nothing in it but what the page sends.

    Gradio copies or downloads whatever is a file by what is sent, wherever it lies.

    Args:
        sent: JSON, from anybody who can reach the page.
        folder: Where uploads lie.
        num_fields: How many fields the page has beside the upload.

    Raises:
        DataError: It is no question about an upload.
    """
    try:
        asked = json.loads(sent)
        upload, *fields = asked["data"]
        name, session = upload["orig_name"], asked["session_hash"]
        path = str(find_upload(upload["path"], folder))
        texts = [name, session, *(text for text in fields if text is not None)]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("what is no text")
        if len(fields) != num_fields or asked["fn_index"] != 0:
            raise ValueError("what the page does not have")
        file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        cleaned = {"data": [file, *fields], "fn_index": 0, "session_hash": session}
        return json.dumps(cleaned, ensure_ascii=False).encode()
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            "A question is the JSON that the page sends: data, of which the first is an "
            f"upload, fn_index 0 and session_hash. Received: {type(error).__name__}."
        ) from error


def find_upload(path: str, folder: Path) -> Path:
    """Returns where an upload lies, which need not be there any more.

    Args:
        path: As anybody says who can reach the page.
        folder: Where uploads lie.

    Raises:
        DataError: It would not be there.
    """
    resolved = Path(path).resolve()
    if resolved.parent != folder.resolve():
        raise DataError(GONE)
    return resolved


def take(upload: Upload, folder: Path) -> tuple[bytes, str]:
    """Returns the content and the name of an upload, which is deleted.

    Args:
        upload: From Gradio, or from anybody who can reach the page.
        folder: Where uploads lie.

    Raises:
        DataError: It is no file there.
    """
    path = find_upload(upload["path"], folder)
    try:
        content = path.read_bytes()
        path.unlink()
    except OSError as error:
        raise DataError(GONE) from error
    return content, upload["orig_name"]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a folder of this user, as nobody else can until the process ends.

    Raises:
        OSError: Somebody else holds it, or it is none of this user's.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError(f"{folder} is somebody else's.")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _storing(folder: Path, kept: set[str]) -> Callable[[Any], Awaitable[Any]]:
    """Returns what answers to `UPLOAD`: it stores each file under a name of its own.

    Args:
        folder: Where.
        kept: Gets the paths, which Gradio deletes when they are `ABANDONED`.
    """
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    async def store(request: Any) -> Any:
        left = MAX_BYTES + MULTIPART

        async def receive() -> Any:
            nonlocal left
            message = await request.receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, "The file is too large.")
            return message

        # Until all of it is there, it has no name on the disk.
        limited = Request(request.scope, receive)
        async with limited.form(max_files=1, max_fields=1) as form:
            sent = form.get("files")
            if not isinstance(sent, UploadFile):
                raise HTTPException(400, "An upload is a file in the field files.")
            if (sent.size or 0) > MAX_BYTES:
                raise HTTPException(413, "The file is too large.")
            path = await run_in_threadpool(_store, sent.file, folder, kept)
        return JSONResponse([path])

    return store


def _store(content: IO[bytes], folder: Path, kept: set[str]) -> str:
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        kept.add(file.name)
        shutil.copyfileobj(content, file)
    return file.name


async def _uploaded(request: Any) -> Any:
    """Answers to `PROGRESS` that the upload is done: it takes no time on one computer."""
    from starlette.responses import PlainTextResponse

    return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def _questioned(app: Application, folder: Path, num_fields: int) -> Application:
    """Returns an ASGI application that is asked no more than `check_question` returns."""
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != ASK:
            return await app(scope, receive, send)
        sent = b""
        async for part in Request(scope, receive).stream():
            sent += part
            if len(sent) > MAX_QUESTION:
                refusal = JSONResponse({"detail": "That is too long a question."}, 413)
                return await refusal(scope, receive, send)
        try:
            body = check_question(sent, folder, num_fields)
        except DataError as error:
            return await JSONResponse({"detail": str(error)}, 400)(scope, receive, send)
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_checked() -> Any:
            return next(parts, None) or await receive()

        await app(scope, receive_checked, send)

    return answer


def _guarded(app: Application) -> Application:
    """Returns an ASGI application that takes what the page sends and adds `POLICY`."""
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse

    policy = (b"content-security-policy", POLICY.encode())

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        reads = scope["type"] != "http" or scope["method"] in ("GET", "HEAD")
        path = scope.get("path")
        known = path != DEEP_LINK if reads else path in (UPLOAD, ASK)
        if not known:
            chosen: Application = PlainTextResponse("Not here.", 405)
        elif not reads and not is_own(Headers(scope=scope)):
            chosen = PlainTextResponse("Not from that page.", 403)
        else:
            chosen = app
        await chosen(scope, receive, send_with_policy)

    return answer


def _patient_fields(gradio: Any) -> list[Any]:
    """Returns a field for each of `METADATA_COLUMNS`."""
    sites = [UNKNOWN, *REGION_OF]
    gradio.HTML(render("patient"))
    with gradio.Row():
        return [
            # No field for numbers: an empty one shows 0.
            gradio.Textbox(label="Age in years", placeholder=UNKNOWN, max_lines=1),
            gradio.Dropdown([UNKNOWN, *SEXES], value=UNKNOWN, label="Sex"),
            gradio.Dropdown(sites, value=UNKNOWN, label="Site on the body"),
        ]
