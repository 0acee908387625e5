"""Reads the images and form fields of requests, in memory and within limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from skincnn.serving.images import MAX_BYTES

MAX_IMAGES = 32
"""Maximum number of images in a request."""
MAX_REQUEST_BYTES = 100_000_000
"""Maximum size of a request. The size of each image is limited to `MAX_BYTES`."""
MAX_TOTAL_BYTES = 400_000_000
"""Maximum size of all requests that are processed at a time."""
MAX_REQUESTS = 64
"""Maximum number of requests that are processed at a time."""
MAX_FIELDS = 10
MAX_FIELD_BYTES = 1000
READ_SECONDS = 60
"""Maximum time for receiving a request."""
IMAGES_FIELD = "images"
MEDIA_TYPE = "multipart/form-data"


async def discard_body(request: Request) -> None:
    """Receives the rest of the body of a request, but at most `MAX_REQUEST_BYTES`.

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
    """The content of a request.

    Attributes:
        names: File name of each image, as sent by the client.
        contents: Content of each image file.
        fields: Other form fields by name.
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

    @property
    def num_requests(self) -> int:
        """The number of requests that are being received or processed."""
        return len(self._sizes)

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
        if self.num_requests >= MAX_REQUESTS:
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
            raise HTTPException(415, f"The content type must be {MEDIA_TYPE}.")
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
            raise HTTPException(422, error.message) from error

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
            allowed = f"`{IMAGES_FIELD}` (files)" + "".join(f", `{one}`" for one in fields)
            raise HTTPException(
                422,
                f"The form fields must be {allowed}; all except `{IMAGES_FIELD}` at most "
                f"once. Received: {name[:100]!r}.",
            )
    if not form.contents:
        raise HTTPException(422, f"Send at least one file in the field `{IMAGES_FIELD}`.")
    return form
