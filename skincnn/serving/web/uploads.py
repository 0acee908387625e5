"""Temporary storage of uploaded images.

Each server has a directory, which is removed when the server ends. A complete upload is
stored under a unique name and deleted when it is read.
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

UPLOAD_PATH = "/gradio_api/upload"
PROGRESS_PATH = "/gradio_api/upload_progress"
MAX_AGE_SECONDS = 600
"""Age in seconds after which Gradio deletes an upload that has not been read."""
FOLDER_PREFIX = "skincnn-page-"
"""Prefix of the name of each directory of uploads."""
MULTIPART_BYTES = 2**16
"""Maximum size of an upload request in bytes, excluding the file."""
MISSING = "The upload no longer exists. Upload the image again."
TOO_LARGE = f"The file is too large. Expected at most {MAX_BYTES} bytes."
Upload = Mapping[str, Any]
"""Gradio's description of an upload, which includes its `path` and `orig_name`."""


@contextlib.contextmanager
def make_folder() -> Iterator[Path]:
    """Yields a new directory for uploads, after removing directories of killed servers."""
    temporary = Path(tempfile.gettempdir())
    for folder in temporary.glob(f"{FOLDER_PREFIX}????????"):
        with contextlib.suppress(OSError), _locked(folder):
            shutil.rmtree(folder)
    # Until it is locked, it has a different prefix so that other servers do not remove it.
    new = Path(tempfile.mkdtemp(prefix=f"new-{FOLDER_PREFIX}"))
    with _locked(new):
        folder = new.rename(temporary / new.name.removeprefix("new-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_upload_endpoint(folder: Path, stored: set[str]) -> Callable[[Any], Awaitable[Any]]:
    """Returns the endpoint for `UPLOAD_PATH`, which stores files under unique names.

    The endpoint adds the path of each upload to `stored`. Gradio deletes these files after
    `MAX_AGE_SECONDS`.
    """
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    async def store(request: Any) -> Any:
        remaining = MAX_BYTES + MULTIPART_BYTES

        async def receive() -> Any:
            nonlocal remaining
            message = await request.receive()
            remaining -= len(message.get("body", b""))
            if remaining < 0:
                raise HTTPException(413, TOO_LARGE)
            return message

        # Starlette stores incomplete uploads in unnamed temporary files.
        limited = Request(request.scope, receive)
        async with limited.form(max_files=1, max_fields=1) as form:
            file = form.get("files")
            if not isinstance(file, UploadFile):
                raise HTTPException(400, "Expected a file in the field `files`.")
            if (file.size or 0) > MAX_BYTES:
                raise HTTPException(413, TOO_LARGE)
            path = await run_in_threadpool(_store, file.file, folder, stored)
        return JSONResponse([path])

    return store


async def report_progress(request: Any) -> Any:
    """Reports that the upload is complete; a local upload needs no progress bar."""
    from starlette.responses import PlainTextResponse

    return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")


def find_upload(path: str, folder: Path) -> Path:
    """Returns the resolved path of an upload, which may have been deleted.

    Raises:
        DataError: The path is outside the directory of uploads or in a subdirectory.
    """
    resolved = Path(path).resolve()
    if resolved.parent != folder.resolve():
        raise DataError(MISSING)
    return resolved


def take(upload: Upload, folder: Path) -> tuple[bytes, str]:
    """Returns the content and the original name of an upload, and deletes its file.

    Raises:
        DataError: The upload does not exist or is not in the directory of uploads.
    """
    path = find_upload(upload["path"], folder)
    try:
        content = path.read_bytes()
        path.unlink()
    except OSError as error:
        raise DataError(MISSING) from error
    return content, upload["orig_name"]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks a directory of this user until the `with` block or the process ends.

    An `OSError` means that another process holds the lock or another user owns `folder`.
    """
    import fcntl  # not available on Windows; see `app.check_requirements`.

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user.")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _store(content: IO[bytes], folder: Path, stored: set[str]) -> str:
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        stored.add(file.name)
        shutil.copyfileobj(content, file)
    return file.name
