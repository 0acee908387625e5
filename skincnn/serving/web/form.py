"""Reads the images and form fields of requests, in memory and within limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from skincnn.clinical_metadata import CLINICAL_COLUMNS, FIELDS
from skincnn.serving.images import MAX_BYTES
from skincnn.serving.web.batching import ClinicalMetadata
from tfds_ham10000.table.values import PARSERS

MAX_IMAGES = 32
"""Maximum number of images in a request."""
MAX_REQUEST_BYTES = 100_000_000
"""Maximum size of a request. The size of each image is limited to `MAX_BYTES`."""
MAX_TOTAL_BYTES = 400_000_000
"""Maximum total size of the requests that are processed at a time."""
MAX_REQUESTS = 64
"""Maximum number of requests that are processed at a time."""
MAX_FIELDS = 10
MAX_FIELD_BYTES = 1000
READ_SECONDS = 60
"""Maximum time for receiving a request."""
IMAGES_FIELD = "images"
AS_FILES = f"files, with curl: -F {IMAGES_FIELD}=@FILE"
MEDIA_TYPE = "multipart/form-data"


async def discard_body(request: Request) -> None:
    """Receives the rest of a body, up to `MAX_REQUEST_BYTES` and for `READ_SECONDS`.

    Most clients read the response only after they have sent the whole body.
    """
    size = 0
    # `stream` raises a RuntimeError if the body has already been read.
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_REQUEST_BYTES:
                    return


@dataclass(frozen=True)
class Form:
    """The names and contents of the image files of a request, and its other form fields.

    `fields` contains the text of each field by name.
    """

    names: list[str]
    contents: list[bytes]
    fields: dict[str, str]


class MemoryParser(MultiPartParser):
    """A parser that keeps all files in memory; its base class writes large ones to disk."""

    spool_max_size = 0  # no limit, as documented for `tempfile.SpooledTemporaryFile`


class RequestLimits:
    """Limits the number and the total size of the requests that are processed at a time."""

    def __init__(self) -> None:
        self._sizes: dict[Request, int] = {}

    @contextlib.asynccontextmanager
    async def read(
        self, request: Request, fields: Collection[str], max_images: int = MAX_IMAGES
    ) -> AsyncIterator[Form]:
        """Yields the content of a request.

        The request counts toward the limits until the end of the `with` block. `fields` are
        the names of the form fields that are allowed in addition to the images.

        Raises:
            HTTPException: 400 (the client disconnected), 408, 413, 415, 422 or 429.
        """
        if len(self._sizes) >= MAX_REQUESTS:
            raise too_many_requests()
        self._sizes[request] = 0
        try:
            data = await self._parse(request, max_images)
            try:
                form = await to_form(data, fields)
            finally:
                await data.close()
            yield form
        finally:
            del self._sizes[request]

    async def _parse(self, request: Request, max_images: int) -> FormData:
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != MEDIA_TYPE:
            text = f"The content type must be {MEDIA_TYPE}."
            raise HTTPException(415, f"{text} Received: {content_type[:100]!r}.")
        parser = MemoryParser(
            request.headers,
            self._receive(request),
            max_files=max_images,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FIELD_BYTES,
        )
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await parser.parse()
        except TimeoutError as error:
            text = f"The request was not received within {READ_SECONDS} seconds."
            raise HTTPException(408, text) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "The client disconnected.") from error
        except MultiPartException as error:
            text = error.message
            if text.startswith("Part exceeded maximum size"):
                text = (
                    f"A text field must have at most {MAX_FIELD_BYTES} bytes. Send "
                    f"`{IMAGES_FIELD}` as {AS_FILES}"
                )
            raise HTTPException(422, text) from error

    async def _receive(self, request: Request) -> AsyncGenerator[bytes, None]:
        async for part in request.stream():
            self._sizes[request] += len(part)
            if self._sizes[request] > MAX_REQUEST_BYTES:
                text = f"A request must have at most {MAX_REQUEST_BYTES} bytes."
                raise HTTPException(413, text)
            if sum(self._sizes.values()) > MAX_TOTAL_BYTES:
                raise too_many_requests()
            yield part


def too_many_requests() -> HTTPException:
    """Returns the error for requests that exceed `MAX_REQUESTS` or `MAX_TOTAL_BYTES`."""
    text = "The server is processing too many requests. Try again later."
    return HTTPException(429, text, headers={"Retry-After": "1"})


async def to_form(data: FormData, fields: Collection[str]) -> Form:
    """Returns the images and fields of a parsed request; see `RequestLimits.read`.

    Raises:
        HTTPException: 413 or 422.
    """
    form = Form([], [], {})
    for name, value in data.multi_items():
        if name == IMAGES_FIELD and isinstance(value, UploadFile):
            if (value.size or 0) > MAX_BYTES:
                text = f"An image file must have at most {MAX_BYTES} bytes."
                raise HTTPException(413, f"{text} Received: {value.size}.")
            form.names.append(value.filename or "")
            form.contents.append(await value.read())
        elif name in fields and isinstance(value, str) and name not in form.fields:
            form.fields[name] = value
        else:
            texts = "".join(f", `{one}` (text)" for one in fields)
            kind = "a file" if isinstance(value, UploadFile) else "text"
            again = " again" if name in form.fields else ""
            raise HTTPException(
                422,
                f"The form fields must be `{IMAGES_FIELD}` ({AS_FILES}){texts}; all except "
                f"`{IMAGES_FIELD}` at most once. Received: {kind} in the field "
                f"{name[:100]!r}{again}.",
            )
    if not form.contents:
        raise HTTPException(422, f"Send at least one file in the field `{IMAGES_FIELD}`.")
    return form


def parse_clinical_metadata(fields: Mapping[str, str]) -> ClinicalMetadata:
    """Returns a value for each of `CLINICAL_COLUMNS` from form fields.

    Missing and empty fields mean unknown.

    Raises:
        HTTPException: 422; the age is not in 0..120, or the sex or localization is not a
            valid word.
    """
    row: ClinicalMetadata = {}
    for name in CLINICAL_COLUMNS:
        parse, expected = PARSERS[FIELDS[name]]
        text = fields.get(name, "").strip()
        try:
            row[name] = parse(text)
        except ValueError as error:
            message = f"The field {name} must be {expected}. Received: {text!r}."
            raise HTTPException(422, message) from error
    return row
