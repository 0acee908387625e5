"""Benchmark of the HTTP service under load, relative to scripts/predict.py."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import math
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure import Result, compare
from benchmarks.serving import BATCH_SIZE, MB, Setting
from skincnn.cli import common
from skincnn.config import DataConfig
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.predictor import Predictor
from skincnn.serving.prefetch import predict_batches
from skincnn.serving.saved_model import open_saved_model
from skincnn.serving.web.schemas import ModelVersion

ModelPart = tuple[Path, DecisionRule, DataConfig]
"""The path of a SavedModel, its referral rule and its preprocessing."""
NUM_CLIENTS = 16
NUM_REQUESTS = 1000
NUM_FIRST = 200
"""Number of requests after which the growth of the memory is measured."""
BOUNDARY = "boundary-of-the-benchmark"


def http_service(setting: Setting) -> Iterator[Result]:
    """Measures errors, latency, memory growth and throughput of the HTTP service.

    The server is a process on this computer, and `NUM_CLIENTS` threads of this process send
    requests with one image each. The baseline predicts the same files with the same
    SavedModel as in scripts/predict.py.
    """
    model = (setting.saved_model, setting.rule, setting.data)
    bodies = [to_form(path.read_bytes()) for path in setting.paths]
    predictor = load(model)

    def predict_files() -> int:
        batches = predict_batches(predictor, setting.paths, BATCH_SIZE)
        return sum(len(batch.table) for batch in batches)

    with serving(model) as (port, server):
        send(port, bodies, NUM_FIRST)
        first = server.memory_info().rss
        seconds = send(port, bodies, NUM_REQUESTS - NUM_FIRST)
        last = server.memory_info().rss
        load_text = f"{NUM_CLIENTS} clients"
        yield Result(
            f"HTTP service: growth of memory from request {NUM_FIRST} "
            f"({first / MB:.0f} MB) to request {NUM_REQUESTS}",
            (last - first) / MB,
            "MB",
            at_most=50,
        )
        failed = sum(map(math.isnan, seconds))
        yield Result(f"HTTP service: failed requests, {load_text}", failed, at_most=0)
        for name, percentile in (("median", 50), ("95th percentile", 95)):
            value = 1000 * float(np.nanpercentile(seconds, percentile))
            yield Result(f"HTTP service: {name} of the latency, {load_text}", value, "ms")
        yield compare(
            f"HTTP service, {load_text} / files to table ({setting.description})",
            lambda: len(send(port, bodies, len(bodies))),
            predict_files,
            at_least=0.8,
        )


def load(model: ModelPart) -> Predictor:
    """Returns a predictor with a SavedModel."""
    path, rule, data = model
    predict = open_saved_model(path, rule.class_names, clinical_metadata=False)
    return Predictor("saved_model", rule, data, True, False, predict)


def to_form(content: bytes) -> bytes:
    """Returns the body of a request with one image."""
    head = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=images; filename=x.jpg\r\n"
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def send(port: int, bodies: Sequence[bytes], count: int) -> list[float]:
    """Returns the time in seconds of each of `count` requests; NaN for a failed request.

    Each of `NUM_CLIENTS` clients has a connection and sends its next request when it
    receives a response.
    """
    numbers, lock = itertools.count(), threading.Lock()

    def run_client(_: int) -> list[float]:
        seconds: list[float] = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            with lock:
                number = next(numbers)
            if number >= count:
                connection.close()
                return seconds
            seconds.append(request(connection, bodies[number % len(bodies)]))

    with ThreadPoolExecutor(NUM_CLIENTS) as executor:
        return list(itertools.chain(*executor.map(run_client, range(NUM_CLIENTS))))


def request(connection: http.client.HTTPConnection, body: bytes) -> float:
    """Returns the time in seconds of a request for one prediction; NaN if it fails."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    started = time.perf_counter()
    try:
        connection.request("POST", "/v1/predict", body, headers)
        response = connection.getresponse()
        content = response.read()
    except OSError:
        connection.close()  # The next request opens it again.
        return math.nan
    elapsed = time.perf_counter() - started
    is_predicted = response.status == 200 and json.loads(content)["predictions"]
    return elapsed if is_predicted else math.nan


@contextlib.contextmanager
def serving(model: ModelPart) -> Iterator[tuple[int, psutil.Process]]:
    """Yields the port and the process of a server."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_server, args=(model, sender))
    process.start()
    try:
        yield receiver.recv(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join()


def run_server(model: ModelPart, sender: Connection) -> None:
    """Serves a model, and sends the port when the model is loaded."""
    common.load_tensorflow()
    from skincnn.serving.web import server
    from skincnn.serving.web.app import build_app
    from skincnn.serving.web.model import ServedModel, describe_model

    predictor = load(model)
    version = ModelVersion(name="benchmark", version="", format="saved_model", sha256=())
    info = describe_model(predictor, version, workdir=None, grad_cam=False)
    with server.bind("127.0.0.1", 0) as listener:
        app = build_app(ServedModel(predictor, None, info))
        listener.listen()
        sender.send(listener.getsockname()[1])
        common.main(lambda: server.serve(app, listener))
