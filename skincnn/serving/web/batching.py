"""Predicts the images of concurrent requests together in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd

from skincnn.serving.saved_model import Predict, Predictions

ClinicalMetadata = dict[str, float | str]
"""A value for each of `CLINICAL_COLUMNS`."""
BATCH_SIZE = 8
"""Number of images at which a batch is complete. The images of a request stay together.

With 16 clients on two cores, the throughput was .73 of that of `skincnn predict` with one
batch of up to 32 images at a time, and .82 with two batches of 8 (docs/results).
"""
NUM_IN_FLIGHT = 2
"""Number of batches at a time: files of one are decoded while the other is predicted."""
MAX_WAIT_SECONDS = 0.005
"""While the model is idle, an incomplete batch waits this long for the next request."""


@dataclass(frozen=True, eq=False)
class _Job:
    """The images of one request, and the future of their predictions."""

    contents: Sequence[bytes]
    clinical_metadata: ClinicalMetadata
    predictions: asyncio.Future[Predictions]


class Batcher:
    """Predicts the images of concurrent requests in batches, in background threads.

    `NUM_IN_FLIGHT` batches are predicted at a time. Meanwhile, other requests wait. Their
    number is limited by `form.RequestLimits`.

    Attributes:
        executor: Runs the predictions, and can also run other computations of the model.
    """

    def __init__(self, predict: Predict, observe: Callable[[int], None]):
        """`observe` is called with the number of images in each batch."""
        self._predict = predict
        self._observe = observe
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._num_in_flight = 0
        self.executor = ThreadPoolExecutor(NUM_IN_FLIGHT, "predict")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Predicts jobs in the block; jobs that still wait at its end are dropped."""
        with self.executor:
            workers = [asyncio.create_task(self._work()) for _ in range(NUM_IN_FLIGHT)]
            try:
                yield
            finally:
                for worker in workers:
                    worker.cancel()

    async def predict(
        self, contents: Sequence[bytes], clinical_metadata: ClinicalMetadata
    ) -> Predictions:
        """Returns the predictions for the images of one request, as `Predict` does.

        The clinical metadata apply to all of its images. An exception of the model is
        raised for all requests of the batch.
        """
        future = asyncio.get_running_loop().create_future()
        job = _Job(contents, clinical_metadata, future)
        self._jobs.put_nowait(job)
        return await job.predictions

    async def _work(self) -> None:
        while True:
            jobs = await self._collect()
            self._num_in_flight += 1
            run = asyncio.get_running_loop().run_in_executor
            try:
                parts = await run(self.executor, self._predict_jobs, jobs)
            except Exception as error:
                for job in jobs:
                    if not job.predictions.done():
                        job.predictions.set_exception(error)
            else:
                for job, part in zip(jobs, parts, strict=True):
                    if not job.predictions.done():  # canceled after a timeout
                        job.predictions.set_result(part)
            self._num_in_flight -= 1

    async def _collect(self) -> list[_Job]:
        jobs = [await self._jobs.get()]
        while sum(len(job.contents) for job in jobs) < BATCH_SIZE:
            try:
                async with asyncio.timeout(MAX_WAIT_SECONDS):
                    jobs.append(await self._jobs.get())
            except TimeoutError:
                if not self._num_in_flight:
                    break
        return [job for job in jobs if not job.predictions.done()]

    def _predict_jobs(self, jobs: Sequence[_Job]) -> list[Predictions]:
        if not jobs:
            return []
        contents = [content for job in jobs for content in job.contents]
        self._observe(len(contents))
        # One table for the batch, because a table for each request takes milliseconds.
        rows = [job.clinical_metadata for job in jobs for _ in job.contents]
        outputs = self._predict(contents, pd.DataFrame(rows))
        parts, start = [], 0
        for job in jobs:
            part = slice(start, start := start + len(job.contents))
            parts.append({name: values[part] for name, values in outputs.items()})
        return parts
