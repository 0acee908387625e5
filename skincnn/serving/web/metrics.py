"""Metrics of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from skincnn.serving.web.schemas import ImagePrediction

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class ServiceMetrics:
    """Counts requests and predictions since the start of the server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "skincnn_requests", "Requests.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "skincnn_request_seconds",
            "Time from the headers of a request to the end of its response.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self._in_progress = Gauge(
            "skincnn_requests_in_progress",
            "Requests with images that are being received or processed.",
            registry=registry,
        )
        self._images = Counter(
            "skincnn_images",
            "Images by the reason for their referral decision.",
            ["reason"],
            registry=registry,
        )
        self._batches = Histogram(
            "skincnn_batch_images",
            "Images that were predicted together.",
            buckets=IMAGES,
            registry=registry,
        )

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Counts a request; `path` must be one of a fixed number of values."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_batch(self, num_images: int) -> None:
        """Counts a batch."""
        self._batches.observe(num_images)

    def observe_predictions(self, predictions: Iterable[ImagePrediction]) -> None:
        """Counts images by the reason for their referral decision."""
        for prediction in predictions:
            self._images.labels(prediction.reason).inc()

    def set_requests_in_progress(self, count: Callable[[], int]) -> None:
        """Reports the result of `count` as the number of requests in progress."""
        self._in_progress.set_function(count)

    def text(self) -> bytes:
        """Returns the metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
