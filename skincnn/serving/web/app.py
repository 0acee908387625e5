"""The HTTP API and the web page, as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import resources
from typing import Any

import pandas as pd
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from skincnn import __version__
from skincnn.clinical_metadata import CLINICAL_COLUMNS
from skincnn.reporting.templates import encode_png
from skincnn.serving.images import OK
from skincnn.serving.web.batching import Batcher
from skincnn.serving.web.form import (
    IMAGES_FIELD,
    MEDIA_TYPE,
    Form,
    RequestLimits,
    discard_body,
    parse_clinical_metadata,
)
from skincnn.serving.web.guard import Guard, ServiceMetrics, problem_response
from skincnn.serving.web.model import ServedModel
from skincnn.serving.web.schemas import (
    ImagePrediction,
    ModelInfo,
    PredictResponse,
    Problem,
    to_predictions,
)

PREDICT_SECONDS = 60
"""Maximum time from the receipt of a request to its response."""
CLASS_FIELD = "class_name"
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The files of the web page and their media types, which Windows can change, by path."""
DESCRIPTION = """Predicts classes of skin lesions in dermatoscopic images. **Not a medical
device.** Images are decoded in memory and not stored. Errors are `Problem` objects."""
PROBLEMS = (401, 403, 408, 413, 415, 422, 429, 500, 503)
"""Status codes of errors in the OpenAPI description of every path."""
router = APIRouter()


class Service:
    """The model with everything that the requests share.

    The methods raise an `HTTPException` if a request cannot be handled.
    """

    def __init__(self, model: ServedModel):
        self.model = model
        self.metrics = ServiceMetrics()
        self.limits = RequestLimits()
        self.batcher = Batcher(model.predictor.predict, self.metrics.batches.observe)

    async def predict(self, form: Form) -> tuple[ImagePrediction, ...]:
        """Returns the predictions for the images of a request."""
        metadata = parse_clinical_metadata(form.fields)
        outputs = await self.batcher.predict(form.contents, metadata)
        return to_predictions(form.names, outputs, self.model.predictor.rule)

    async def explain(self, form: Form) -> bytes:
        """Returns the model input of an image beside its Grad-CAM overlay, as PNG."""
        explainer = self.model.explainer
        if explainer is None:
            raise HTTPException(
                404,
                "Grad-CAM is not available: the server was started with neither a run "
                "directory nor its model.keras, or the model does not support Grad-CAM.",
            )
        (prediction,) = await self.predict(form)
        if prediction.status != OK:
            raise HTTPException(422, prediction.status)
        name = form.fields.get(CLASS_FIELD) or str(prediction.predicted_class)
        if name not in explainer.class_names:
            raise HTTPException(
                422,
                f"`{CLASS_FIELD}` must be one of {', '.join(explainer.class_names)}. "
                f"Received: {name[:100]!r}.",
            )
        metadata = pd.DataFrame([parse_clinical_metadata(form.fields)])

        def draw() -> bytes:
            (pair,) = explainer.explain(form.contents, [name], metadata)
            assert pair is not None, "the class is given"
            return encode_png(pair)

        run = asyncio.get_running_loop().run_in_executor
        return await run(self.batcher.executor, draw)


def build_app(model: ServedModel, token: str = "") -> FastAPI:
    """Returns the application; its `state.service` is the `Service`.

    Args:
        model: The model that predicts the images.
        token: The token that requests must contain (see `Guard`); "" if only this computer
            can send requests.
    """
    service = Service(model)
    app = FastAPI(
        title="skincnn",
        version=__version__,
        description=DESCRIPTION,
        responses={code: {"model": Problem} for code in PROBLEMS},
        docs_url=None,  # These pages load scripts from other sites.
        redoc_url=None,
        redirect_slashes=False,  # Many clients drop the body of a redirected request.
        lifespan=lambda _: service.batcher.running(),
    )
    app.state.service = service
    app.add_middleware(Guard, token=token, metrics=service.metrics)
    app.add_exception_handler(HTTPException, _report_problem)
    app.add_exception_handler(TimeoutError, _report_timeout)
    app.include_router(router)
    for path, file in PAGE.items():
        app.add_route(path, _send_file(*file))
    return app


def _send_file(name: str, media_type: str) -> Callable[[Request], Response]:
    content = resources.files(__package__).joinpath("page", name).read_bytes()
    return lambda request: Response(content, media_type=media_type)


def _form_schema(*fields: str, many: bool) -> dict[str, Any]:
    """Returns the OpenAPI description of a request with images."""
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    images: dict[str, Any] = {"type": "array", "items": file} if many else file
    texts = {name: {"type": "string"} for name in (*fields, *CLINICAL_COLUMNS)}
    schema = {
        "type": "object",
        "required": [IMAGES_FIELD],
        "properties": {IMAGES_FIELD: images, **texts},
    }
    content = {MEDIA_TYPE: {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


@router.post("/v1/predict", openapi_extra=_form_schema(many=True))
async def predict(request: Request) -> PredictResponse:
    """Predicts one or more images.

    An unreadable file has a status other than "ok" and does not affect the other files. The
    clinical metadata apply to all images of the request. A model that uses images only
    rejects requests with clinical metadata.
    """
    service: Service = request.app.state.service
    async with service.limits.read(request, service.model.clinical_fields) as form:
        async with asyncio.timeout(PREDICT_SECONDS):
            predictions = await service.predict(form)
    for prediction in predictions:
        service.metrics.images.labels(prediction.reason).inc()
    return PredictResponse(model=service.model.info.model, predictions=predictions)


@router.post(
    "/v1/explain",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, 404: {"model": Problem}},
    openapi_extra=_form_schema(CLASS_FIELD, many=False),
)
async def explain(request: Request) -> Response:
    """Returns the model input of one image beside its Grad-CAM overlay for a class.

    By default, the class is the predicted class.
    """
    service: Service = request.app.state.service
    fields = (CLASS_FIELD, *service.model.clinical_fields)
    async with service.limits.read(request, fields, max_images=1) as form:
        async with asyncio.timeout(PREDICT_SECONDS):
            content = await service.explain(form)
    return Response(content, media_type="image/png")


@router.get("/v1/model")
async def describe_model(request: Request) -> ModelInfo:
    """Returns the classes, thresholds, scores and model card of the model."""
    info: ModelInfo = request.app.state.service.model.info
    return info


@router.get("/healthz")
@router.get("/readyz")
async def report_health() -> dict[str, str]:
    """Returns "ok" while the server accepts requests.

    It does not listen before the model is loaded, nor after a signal to stop.
    """
    return {"status": "ok"}


@router.get("/metrics", response_class=Response)
async def report_metrics(request: Request) -> Response:
    """Returns the metrics in the text format of Prometheus."""
    text = generate_latest(request.app.state.service.metrics)
    return Response(text, media_type="text/plain; version=0.0.4")


async def _report_problem(request: Request, error: HTTPException) -> Response:
    await discard_body(request)
    return problem_response(error.status_code, error.detail, error.headers)


async def _report_timeout(request: Request, error: Exception) -> Response:
    text = f"No prediction within {PREDICT_SECONDS} seconds. Try again later."
    return problem_response(503, text, {"Retry-After": "10"})
