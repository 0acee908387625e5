"""Benchmark of the HTTP service under load, relative to `skincnn predict`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure import Result, compare
from benchmarks.serving import BATCH_SIZE, MB, Setting
from skincnn.cli import common, process
from skincnn.cli.serve import PACKAGES
from skincnn.config import DataConfig
from skincnn.errors import require_packages
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.predictor import Predictor, converting_files
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

    The server is a process on this computer, and `NUM_CLIENTS` clients in this process send
    requests with one image each. The baseline predicts the same files with the same
    SavedModel and in batches, as `skincnn predict` does. Both convert the files first.
    """
    require_packages(PACKAGES, "The server", "serve")
    model = (setting.saved_model, setting.rule, setting.data)
    requests = [to_request(path.read_bytes()) for path in setting.paths]
    predictor = load(model)

    def predict_files() -> int:
        batches = predict_batches(predictor, setting.paths, BATCH_SIZE)
        return sum(len(batch.table) for batch in batches)

    with serving(model) as (port, server):
        send(port, requests, NUM_FIRST)
        first = server.memory_info().rss
        seconds = send(port, requests, NUM_REQUESTS - NUM_FIRST)
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
            lambda: len(send(port, requests, len(requests))),
            predict_files,
            at_least=0.8,
        )


def load(model: ModelPart) -> Predictor:
    """Returns a predictor with a SavedModel."""
    path, rule, data = model
    predict = open_saved_model(path, rule.class_names)
    predict = converting_files(predict)
    return Predictor("saved_model", rule, data, True, False, predict)


def to_request(content: bytes) -> bytes:
    """Returns an HTTP request for the prediction of one image."""
    part = (
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=images; filename=x.jpg\r\n"
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = part.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    return head.encode() + body


def send(port: int, requests: Sequence[bytes], count: int) -> list[float]:
    """Returns the time in seconds of each of `count` requests; NaN for a failed request.

    Each of `NUM_CLIENTS` clients has a connection and sends its next request when it
    receives a response. All run in one thread and parse little of the responses, because
    they use the same cores as the server.
    """
    numbers = iter(range(count))

    async def run_client() -> list[float]:
        seconds = []
        connect = functools.partial(asyncio.open_connection, "127.0.0.1", port)
        connection = None
        for number in numbers:
            try:
                reader, writer = connection = connection or await connect()
                started = time.perf_counter()
                writer.write(requests[number % len(requests)])
                async with asyncio.timeout(60):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length:")[1].split()[0])
                    content = await reader.readexactly(length)
            except (OSError, EOFError):
                connection = None
                seconds.append(math.nan)
                continue
            elapsed = time.perf_counter() - started
            is_predicted = head.split()[1] == b"200" and json.loads(content)["predictions"]
            seconds.append(elapsed if is_predicted else math.nan)
        if connection:
            connection[1].close()
        return seconds

    async def run_clients() -> list[list[float]]:
        return await asyncio.gather(*(run_client() for _ in range(NUM_CLIENTS)))

    return list(itertools.chain(*asyncio.run(run_clients())))


@contextlib.contextmanager
def serving(model: ModelPart) -> Iterator[tuple[int, psutil.Process]]:
    """Yields the port and the process of a server."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=run_server, args=(model, sender))
    server.start()
    sender.close()  # if the server ends, recv() then raises an error
    try:
        yield receiver.recv(), psutil.Process(server.pid)
    finally:
        server.terminate()
        server.join()


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
        process.main(lambda: server.serve(app, listener))
