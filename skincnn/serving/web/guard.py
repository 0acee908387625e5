"""Restricts the requests that the server accepts and the resources that the page loads.

Gradio has endpoints that the page does not use. Requests that send data to these endpoints
are rejected before they reach Gradio.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from skincnn.errors import DataError
from skincnn.serving.web.uploads import UPLOAD_PATH, find_upload

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application, called with `scope`, `receive` and `send`."""
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'"
)
"""Prevents the browser from loading resources from other sites. Gradio requires inline
scripts and styles."""
PREDICT_PATH = "/gradio_api/queue/join"
"""Endpoint for predictions. The page sends data only to this endpoint and `UPLOAD_PATH`."""
DEEP_LINK_PATH = "/gradio_api/deep_link"
"""Endpoint of Gradio that would permanently store the values of the form fields."""
MAX_REQUEST_BYTES = 2**16
"""Maximum size in bytes of a prediction request, which does not contain the image."""


def guard(app: Application) -> Application:
    """Returns an ASGI application that passes only requests from the page to `app`.

    `CONTENT_SECURITY_POLICY` is added to each response.
    """
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse

    policy = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())

    async def handle(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        is_read = scope["type"] != "http" or scope["method"] in ("GET", "HEAD")
        path = scope.get("path")
        is_allowed = (
            path != DEEP_LINK_PATH if is_read else path in (UPLOAD_PATH, PREDICT_PATH)
        )
        if not is_allowed:
            responder: Application = PlainTextResponse("Not allowed.", 405)
        elif not is_read and not is_same_origin(Headers(scope=scope)):
            responder = PlainTextResponse("Requests from other sites are not allowed.", 403)
        else:
            responder = app
        await responder(scope, receive, send_with_policy)

    return handle


def check_predict_requests(app: Application, folder: Path, num_fields: int) -> Application:
    """Returns an ASGI application that cleans prediction requests before they reach `app`.

    See `clean_request` for `folder` and `num_fields`.
    """
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    async def handle(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != PREDICT_PATH:
            return await app(scope, receive, send)
        content = b""
        async for part in Request(scope, receive).stream():
            content += part
            if len(content) > MAX_REQUEST_BYTES:
                response = JSONResponse({"detail": "The request is too large."}, 413)
                return await response(scope, receive, send)
        try:
            body = clean_request(content, folder, num_fields)
        except DataError as error:
            return await JSONResponse({"detail": str(error)}, 400)(scope, receive, send)
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_clean() -> Any:
            return next(messages, None) or await receive()

        await app(scope, receive_clean, send)

    return handle


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Returns whether the header `Origin`, if it is present, matches the header `Host`."""
    origin = headers.get("origin")  # Programs other than browsers may omit it.
    return origin is None or origin == f"http://{headers.get('host')}"


def clean_request(content: bytes, folder: Path, num_fields: int) -> bytes:
    """Returns a prediction request with only the values that the page sends.

    Without this step, Gradio would copy or download any file that a request names.

    `folder` is the directory of uploads, and `num_fields` the number of form fields for
    clinical metadata.

    Raises:
        DataError: The content is not a prediction request with an upload in `folder` and
            `num_fields` other values.
    """
    try:
        request = json.loads(content)
        upload, *fields = request["data"]
        name, session = upload["orig_name"], request["session_hash"]
        path = str(find_upload(upload["path"], folder))
        texts = [name, session, *(text for text in fields if text is not None)]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a value is not a string")
        if len(fields) != num_fields or request["fn_index"] != 0:
            raise ValueError("unknown function or number of fields")
        file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        clean = {"data": [file, *fields], "fn_index": 0, "session_hash": session}
        return json.dumps(clean, ensure_ascii=False).encode()
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            "A prediction request must be a JSON object with `data` (an upload and the "
            "clinical metadata), `fn_index` 0 and `session_hash`. Received a request that "
            f"raised {type(error).__name__}."
        ) from error
