"""Where the page keeps uploads: a folder that goes with its server, and no file for long.

It gets an upload whole or not at all, under a name of its own, and gives it away once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from skincnn.errors import DataError
from skincnn.serving.images import MAX_BYTES

UPLOAD = "/gradio_api/upload"
"""Where the page sends an upload."""
PROGRESS = "/gradio_api/upload_progress"
"""Where the page listens while it sends an upload."""
ABANDONED = 600
"""Seconds after which an upload that was not answered is deleted."""
FOLDER = "skincnn-page-"
"""How folders for uploads begin, of which each server has one."""
MULTIPART = 2**16
"""Bytes that an upload may have around the file."""
GONE = "The upload is not there any more. Drop the picture again."
Upload = Mapping[str, Any]
"""What Gradio says of an upload: `path`, where it lies, and `orig_name`."""


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


def storing(folder: Path, kept: set[str]) -> Callable[[Any], Awaitable[Any]]:
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


async def uploaded(request: Any) -> Any:
    """Answers to `PROGRESS` that the upload is done: it takes no time on one computer."""
    from starlette.responses import PlainTextResponse

    return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")


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
    import fcntl  # Windows has none: `demo.require` says so

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError(f"{folder} is somebody else's.")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _store(content: IO[bytes], folder: Path, kept: set[str]) -> str:
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        kept.add(file.name)
        shutil.copyfileobj(content, file)
    return file.name
