"""Models for the tests of the HTTP service."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from exports import make_rule

from skincnn.config import DataConfig
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.postprocessing import postprocess
from skincnn.serving.predictor import Predictor
from skincnn.serving.saved_model import Predictions
from skincnn.serving.web.app import build_app
from skincnn.serving.web.model import ServedModel, describe_model
from skincnn.serving.web.schemas import ModelVersion
from skincnn.serving.web.server import bind, make_server

RULE = make_rule("mel", "nv", threshold=0.3, max_distance=0.6)
TOKEN = "0123456789abcdef"
URL = "http://127.0.0.1:8000"


def make_outputs(
    malignant: npt.ArrayLike, distances: npt.ArrayLike, rule: DecisionRule = RULE
) -> Predictions:
    """Returns the outputs for two classes, the first of which is malignant.

    A file with the probability 0 is unreadable.
    """
    shares = np.asarray(malignant, np.float32)
    with np.errstate(divide="ignore"):
        logits = np.log(np.stack([shares, 1 - shares], axis=1))
    distance = tf.constant(distances, tf.float32)
    outputs = postprocess([tf.constant(logits)], [distance], shares > 0, rule)
    return {name: value.numpy() for name, value in outputs.items()}


def predict_lengths(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
    """Predicts melanoma with a probability of 1 % per byte, which is also the distance."""
    assert len(metadata) == len(contents)
    shares = [min(len(content) / 100, 1) for content in contents]
    return make_outputs(shares, shares)


def make_model(
    before: Callable[..., object] = lambda *_: None, *, clinical_metadata: bool = False
) -> ServedModel:
    """Returns a model without a network, which calls `before` in each prediction."""

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        before(contents, metadata)
        return predict_lengths(contents, metadata)

    predictor = Predictor("keras", RULE, DataConfig(), False, clinical_metadata, predict)
    version = ModelVersion(name="x", version="", format="keras", sha256=("0",))
    info = describe_model(predictor, version, workdir=None, grad_cam=False)
    return ServedModel(predictor, None, info)


@contextlib.contextmanager
def serve_in_thread(model: ServedModel, token: str = "") -> Iterator[int]:
    """Serves a model in a thread of this process, and yields the port."""
    server = make_server(build_app(model, token))
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
