"""Metrics of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class ServiceMetrics(CollectorRegistry):
    """Counts requests and predictions since the start of the server."""

    def __init__(self) -> None:
        super().__init__()
        ProcessCollector(registry=self)
        self.requests = Counter(
            "skincnn_requests", "Requests.", ["path", "status"], registry=self
        )
        self.seconds = Histogram(
            "skincnn_request_seconds",
            "Time from the headers of a request to the end of its response.",
            ["path"],
            buckets=SECONDS,
            registry=self,
        )
        self.in_progress = Gauge(
            "skincnn_requests_in_progress",
            "Requests with images that are being received or processed.",
            registry=self,
        )
        self.images = Counter(
            "skincnn_images",
            "Images by the reason for their referral decision.",
            ["reason"],
            registry=self,
        )
        self.batches = Histogram(
            "skincnn_batch_images",
            "Images that were predicted together.",
            buckets=IMAGES,
            registry=self,
        )
