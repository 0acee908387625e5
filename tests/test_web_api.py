"""The HTTP API, without a network."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Run, jpeg
from PIL import Image
from starlette.testclient import TestClient
from web_models import TOKEN, URL, make_model, predict_lengths

from skincnn.serving.predictor import predict_files
from skincnn.serving.tables import select_clinical_metadata, to_text
from skincnn.serving.web import batching
from skincnn.serving.web.app import PAGE, build_app
from skincnn.serving.web.model import ServedModel, load_served_model

IMAGE = [("images", ("x.jpg", b"12345"))]


def client_of(model: ServedModel, token: str = "") -> TestClient:
    return TestClient(build_app(model, token), base_url=URL)


@pytest.fixture(scope="module")
def model(run: Run) -> ServedModel:
    return load_served_model(run[0])


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of(make_model()) as client:
        yield client


def check_problem(response: Any, status: int, text: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert text in response.json()["detail"]


def test_predictions_are_those_of_the_predict_command(model: ServedModel) -> None:
    images = {"a <b>.jpg": jpeg(0), "text.jpg": b"this is text", "c.png": jpeg(1)}
    paths, contents = list(map(Path, images)), list(images.values())
    metadata = select_clinical_metadata(paths, None)
    expected = predict_files(model.predictor, paths, contents, metadata)
    with client_of(model) as client:
        files = [("images", image) for image in images.items()]
        response = client.post("/v1/predict", files=files).json()
    assert response["model"] == model.info.model.model_dump(mode="json")
    rows = map(json.loads, to_text(expected, as_json=True).splitlines())
    names = model.predictor.rule.class_names
    for row, prediction in zip(rows, response["predictions"], strict=True):
        for name in ("file", "status", "refer", "out_of_distribution"):
            assert prediction[name] == row[name]
        assert (prediction["predicted_class"] or "") == row["predicted_class"]
        assert "; ".join(prediction["prediction_set"]) == row["prediction_set"]
        if row["status"] == "ok":
            probabilities = {name: row[f"probability_{name}"] for name in names}
            assert prediction["probabilities"] == pytest.approx(probabilities, rel=1e-5)
    text = response["predictions"][1]
    assert text["status"].startswith("unreadable: ")
    assert (text["reason"], text["probabilities"]) == ("unreadable", None)


def test_the_model_is_described_with_its_scores(model: ServedModel, run: Run) -> None:
    with client_of(model) as client:
        info = client.get("/v1/model").json()
    result = json.loads((run[0] / "results/test.json").read_text())
    assert {"schema_version": result["schema_version"], **info["scores"]} == result
    hashes = json.loads((run[0] / "run.json").read_text())["sha256"]
    assert info["model"]["sha256"] == [hashes["model.keras"]]
    assert (info["model"]["format"], info["model"]["version"]) == ("saved_model", "1")
    assert info["model_card"] == (run[0] / "README.md").read_text()
    assert info["rule"]["class_names"] == [one["name"] for one in info["classes"]]
    assert info["synthetic"]
    assert info["grad_cam"]


def test_grad_cam_is_drawn_for_each_class(model: ServedModel) -> None:
    image = [("images", ("x.jpg", jpeg()))]
    with client_of(model) as client:

        def explain(**fields: str) -> Any:
            return client.post("/v1/explain", files=image, data=fields)

        (best,) = client.post("/v1/predict", files=image).json()["predictions"]
        names = ("mel", best["predicted_class"], "nv")
        overlays = {name: explain(class_name=name).content for name in names}
        assert explain().content == overlays[best["predicted_class"]]
        response = explain(class_name="x")
        check_problem(response, 422, "`class_name` must be one of akiec")
        check_problem(client.post("/v1/explain", files=IMAGE), 422, "unreadable: ")
        check_problem(client.post("/v1/explain", files=image * 2), 422, "Too many files")
    assert len(set(overlays.values())) > 1
    assert Image.open(io.BytesIO(overlays["mel"])).size == (128, 64)


def test_a_format_without_feature_maps_has_no_grad_cam(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(load_served_model(run[0] / "export/skincnn")) as client:
        check_problem(
            client.post("/v1/explain", files=IMAGE), 404, "with neither a run directory"
        )
        info = client.get("/v1/model").json()
    assert (info["grad_cam"], info["scores"], info["model_card"]) == (False, None, "")
    assert "Grad-CAM requires the feature maps" in caplog.text


def content_of(media_type: str) -> dict[str, Any]:
    return {"content": b"x", "headers": {"Content-Type": media_type}}


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"json": {"images": []}}, 415, "must be multipart/form-data"),
        (content_of("image/jpeg"), 415, "must be"),
        (content_of("multipart/form-data"), 422, "Missing boundary"),
        (content_of("multipart/form-data; boundary=b"), 422, "Invalid multipart data"),
        ({"files": {"image": b"x"}}, 422, "-F images=@FILE); all except `images` at"),
        ({"files": IMAGE, "data": {"age": "50"}}, 422, "text in the field 'age'."),
        ({"files": {"images": (None, b"x")}}, 422, "text in the field 'images'."),
        ({"files": {"images": (None, b"x" * 2000)}}, 422, "1000 bytes. Send `images` as"),
        ({"files": IMAGE * 33}, 422, "Maximum number of files is 32"),
    ],
)
def test_an_invalid_request_is_a_problem(
    request_: dict[str, Any], status: int, text: str, client: TestClient
) -> None:
    check_problem(client.post("/v1/predict", **request_), status, text)
    assert client.post("/v1/predict", files=IMAGE).status_code == 200


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    check_problem(client.get("/v1/x"), 404, "Not Found")
    # A redirect would lose the body in many clients.
    check_problem(client.post("/v1/predict/", files=IMAGE), 404, "Not Found")
    check_problem(client.get("/healthz/"), 404, "Not Found")
    check_problem(client.get("/v1/predict"), 405, "Method Not Allowed")


@pytest.mark.parametrize(
    ("name", "limit", "status", "text", "wait"),
    [
        ("form.MAX_BYTES", 4, 413, "at most 4 bytes", None),
        ("form.MAX_REQUEST_BYTES", 99, 413, "at most 99 bytes", None),
        ("form.MAX_REQUESTS", 0, 429, "too many requests", "1"),
        ("form.MAX_TOTAL_BYTES", 99, 429, "too many requests", "1"),
        ("app.PREDICT_SECONDS", 0, 503, "No prediction within", "10"),
    ],
)
def test_each_limit_is_a_problem(
    name: str,
    limit: int,
    status: int,
    text: str,
    wait: str | None,
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as context:
        context.setattr(f"skincnn.serving.web.{name}", limit)
        response = client.post("/v1/predict", files=IMAGE)
    check_problem(response, status, text)
    assert response.headers.get("retry-after") == wait
    assert client.post("/v1/predict", files=IMAGE).status_code == 200


def test_an_error_of_the_model_is_logged_and_not_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("an internal error")

    with caplog.at_level(logging.ERROR), client_of(make_model(fail)) as client:
        response = client.post("/v1/predict", files=IMAGE)
        check_problem(response, 500, "The log of the server shows the error.")
    assert "internal error" not in response.text
    assert "an internal error" in caplog.text
    assert response.headers["x-content-type-options"] == "nosniff"


def test_clinical_metadata_reach_the_model() -> None:
    received: list[dict[Any, Any]] = []
    model = make_model(
        lambda _, metadata: received.extend(metadata.to_dict("records")),
        clinical_metadata=True,
    )
    fields = {"age": " 50", "sex": "female", "localization": "back"}
    with client_of(model) as client:
        assert client.post("/v1/predict", files=IMAGE * 2, data=fields).is_success
        assert client.post("/v1/predict", files=IMAGE, data={"age": ""}).is_success
        for age in ("-1", "121", "inf", "x"):
            response = client.post("/v1/predict", files=IMAGE, data={"age": age})
            check_problem(response, 422, "The field age must be an age in years, 0 to 120")
        response = client.post("/v1/predict", files=IMAGE, data={"sex": "x"})
        check_problem(response, 422, "The field sex must be one of f, female")
        assert client.get("/v1/model").json()["clinical_metadata"]["max_age"] == 120
    assert received[:2] == [{**fields, "age": 50.0}] * 2
    assert np.isnan(received[2].pop("age"))
    assert received[2:] == [{"sex": "unknown", "localization": "unknown"}]


def test_images_are_not_written_to_disk(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rollover(self: object) -> None:
        raise OSError("an image is written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    files = [("images", ("x.jpg", bytes(5_000_000)))]
    assert client.post("/v1/predict", files=files).status_code == 200


def test_only_local_requests_are_allowed_without_a_token(client: TestClient) -> None:
    allowed = ({"Origin": URL}, {"Host": "localhost:1"}, {"Host": "[::1]:8000"})
    for headers in allowed:
        assert client.get("/v1/model", headers=headers).is_success, headers
    others = (
        {"Host": "elsewhere.org"},  # DNS rebinding
        {"Host": "127.0.0.1.elsewhere.org"},
        {"Host": "["},
        {"Origin": "http://elsewhere.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    )
    for headers in others:
        for path in ("/v1/predict", "/v1/explain"):
            response = client.post(path, files=IMAGE, headers=headers)
            check_problem(response, 403, "its own page or a local program")
            ((name, value),) = headers.items()
            check_problem(response, 403, f"Received: {name}: {value}. ")
            check_problem(response, 403, "start it with --token TOKEN")


def test_health_checks_need_no_host(client: TestClient) -> None:
    for headers in ({"Host": ""}, {"Host": "a-proxy.org"}):
        for path in ("/healthz", "/readyz"):
            assert client.get(path, headers=headers).json() == {"status": "ok"}
        for path in ("/", "/v1/model", "/metrics"):
            assert client.get(path, headers=headers).status_code == 403


def test_the_token_protects_the_api() -> None:
    with client_of(make_model(), TOKEN) as client:
        headers = {"Host": "elsewhere.org", "Authorization": f"Bearer {TOKEN}"}
        for origin in ({}, {"Origin": "https://elsewhere.org"}, {"Origin": "null"}):
            response = client.post("/v1/predict", files=IMAGE, headers=headers | origin)
            assert response.is_success, origin
        for value in ("", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", "Bearer é"):
            headers = {"Authorization": value.encode("latin-1")}
            for path in ("/v1/model", "/metrics", "/v1/x"):
                response = client.get(path, headers=headers)
                check_problem(response, 401, "Authorization: Bearer TOKEN")
            response = client.post("/v1/predict", files=IMAGE, headers=headers)
            assert response.status_code == 401
        for path in (*PAGE, "/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).is_success, path


def test_metrics_count_requests_and_images(client: TestClient) -> None:
    sizes = (0, 10, 40, 70)
    files = [("images", ("x.jpg", bytes(size))) for size in sizes]
    client.post("/v1/predict", files=files)
    client.get("/x")
    text = client.get("/metrics").text
    expected = [
        'skincnn_requests_total{path="/v1/predict",status="200"} 1.0',
        'skincnn_requests_total{path="other",status="404"} 1.0',
        "skincnn_batch_images_sum 4.0",
    ]
    reasons = ("unreadable", "below_threshold", "malignant", "out_of_distribution")
    expected += [f'skincnn_images_total{{reason="{reason}"}} 1.0' for reason in reasons]
    for line in expected:
        assert line in text.splitlines(), line


def test_the_openapi_description_lists_the_api(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert sorted(paths) == [
        "/healthz", "/metrics", "/readyz", "/v1/explain", "/v1/model", "/v1/predict"
    ]  # fmt: skip
    operation = paths["/v1/predict"]["post"]
    content = operation["requestBody"]["content"]["multipart/form-data"]
    assert set(content["schema"]["properties"]) == {
        "images", "age", "sex", "localization"
    }  # fmt: skip
    codes = {"200", "401", "403", "408", "413", "415", "422", "429", "500", "503"}
    assert set(operation["responses"]) == codes


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    for path, (_, media_type) in PAGE.items():
        response = client.get(path)
        assert response.headers["content-type"].startswith(media_type)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        addresses = re.findall(r"(?:\w+:)?//\w[^\s\"]*", response.text)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, "a name, not loaded"
    page = client.get("/").text
    assert "style=" not in page
    assert "onclick" not in page


def test_concurrent_requests_are_predicted_in_batches() -> None:
    started, free = threading.Event(), threading.Event()
    batches: list[int] = []

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Any:
        started.set()
        assert free.wait(60)
        return predict_lengths(contents, metadata)

    async def run() -> list[Any]:
        batcher = batching.Batcher(predict, batches.append)

        def ask(sizes: list[int]) -> asyncio.Task[Any]:
            row = {"age": 1.0, "sex": "", "localization": ""}
            return asyncio.create_task(batcher.predict([bytes(n) for n in sizes], row))

        async with batcher.running():
            first = ask([1] * batching.BATCH_SIZE)
            await asyncio.to_thread(started.wait, 60)
            waiting = [ask([n, n + 1]) for n in range(1, 21)]
            canceled = ask([50])
            await asyncio.sleep(0)
            canceled.cancel()
            free.set()
            return await asyncio.gather(first, *waiting)

    results = asyncio.run(run())[1:]
    for n, result in enumerate(results, 1):
        np.testing.assert_allclose(100 * result["malignant_probability"], [n, n + 1], 1e-5)
    assert batches == [8] * 6
