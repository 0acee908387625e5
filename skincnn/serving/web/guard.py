"""What may be sent to the page, and what a browser may load for it.

Gradio answers to more than its page asks: what is not here is refused before it gets there.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from skincnn.errors import DataError
from skincnn.serving.web.uploads import UPLOAD, find_upload

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""By ASGI: what answers is called with `scope`, `receive` and `send`."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'"
)
"""What a browser may load for the page: nothing from elsewhere. Gradio writes scripts and
styles into the page itself."""
ASK = "/gradio_api/queue/join"
"""Where the page asks about an upload. Beside it and `UPLOAD` it sends to nothing; Gradio
has more addresses, such as one that stores recordings."""
DEEP_LINK = "/gradio_api/deep_link"
"""Where Gradio stores for good what is in the fields of the page, the patient's too."""
MAX_QUESTION = 2**16
"""Bytes of what the page sends to `ASK`: where an upload lies, and a patient."""


def guarded(app: Application) -> Application:
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


def questioned(app: Application, folder: Path, num_fields: int) -> Application:
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
