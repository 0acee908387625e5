from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import logsumexp, softmax
from setups import flat_features

from skincnn.config import AugmentConfig, Config
from skincnn.data.pipeline import evaluation_batches
from skincnn.errors import ConfigError
from skincnn.inference.predict import predict
from skincnn.inference.predictions import arrays, mean_predictions, predictions_table
from skincnn.inference.tta import VIEWS, predict_views

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 8, 8, 3), np.uint8)
CONFIG = Config()
NAMES = ["bkl", "mel", "nv"]


def orientations(image: np.ndarray) -> list[np.ndarray]:
    pillow = Image.fromarray(image)
    return [image, *(np.asarray(pillow.transpose(kind)) for kind in Image.Transpose)]


def make_model(*, metadata: bool = False) -> keras.Model:
    """Returns a model whose logits depend on the positions of pixels."""
    inputs, features = flat_features(metadata=metadata)
    return keras.Model(inputs, keras.layers.Dense(3)(features))


def table_of(logits: np.ndarray) -> pd.DataFrame:
    rows = pd.DataFrame({"label": np.arange(len(logits)) % 3, "sha256": ""})
    return predictions_table(rows, logits, NAMES)


def test_mean_predictions_have_the_mean_probabilities_and_energies() -> None:
    parts = RNG.normal(0, 5, (4, 20, 3))
    mean = mean_predictions([table_of(part) for part in parts])
    expected = softmax(parts, axis=2).mean(axis=0)
    np.testing.assert_allclose(arrays(mean, NAMES)[1], expected, rtol=1e-5)
    energies = -logsumexp(parts, axis=2).mean(axis=0)
    np.testing.assert_allclose(mean["energy"], energies, rtol=1e-5)


@pytest.mark.parametrize("metadata", [False, True])
def test_the_prediction_is_the_mean_over_the_views(metadata: bool) -> None:
    model = make_model(metadata=metadata)
    clinical = RNG.normal(size=(5, 2)).astype(np.float32) if metadata else None
    batches = evaluation_batches(IMAGES, clinical)
    logits = predict_views(model, batches, VIEWS["d4"](CONFIG, 8))
    y_prob = arrays(mean_predictions([table_of(one) for one in logits]), NAMES)[1]
    kernel, bias = model.get_weights()
    expected = []
    for row, image in enumerate(IMAGES):
        others = [] if clinical is None else clinical[row]
        logits = [
            np.concatenate([oriented.reshape(-1) / 255, others]) @ kernel + bias
            for oriented in orientations(image)
        ]
        expected.append(softmax(logits, axis=1).mean(axis=0))
    np.testing.assert_allclose(y_prob, expected, rtol=1e-4)
    [logits] = predict(model, batches)
    assert not np.allclose(y_prob, softmax(logits, axis=1), atol=1e-3)


def test_augmented_views_are_random_and_reproducible() -> None:
    first, second = VIEWS["augment"](CONFIG, 2)
    augmented, other = first(IMAGES), second(IMAGES)
    assert augmented.dtype == np.uint8
    assert augmented.shape == IMAGES.shape
    assert (augmented != other).any()
    repeated = VIEWS["augment"](CONFIG, 1)[0](IMAGES)
    assert (repeated == augmented).all()


def test_a_failing_custom_augmentation_is_a_short_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "def part(images, uniform, config): raise KeyError(3)"
    (tmp_path / "failing_view.py").write_text(code)
    augment = AugmentConfig(parts=("failing_view:part",))
    views = VIEWS["augment"](dataclasses.replace(CONFIG, augment=augment), 1)
    with pytest.raises(ConfigError) as caught:
        predict_views(make_model(), evaluation_batches(IMAGES), views)
    place = f"({tmp_path / 'failing_view.py'}, line 1)"
    expected = f"`augment.parts` failing_view:part failed {place}: KeyError: 3"
    assert str(caught.value) == expected


def test_unavailable_views_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"must be at most 8 for `tta` d4.*Received: 9"):
        VIEWS["d4"](CONFIG, 9)
    no_augmentation = dataclasses.replace(CONFIG, augment=AugmentConfig(magnitude=0.0))
    with pytest.raises(ConfigError, match="a run without augmentation"):
        VIEWS["augment"](no_augmentation, 2)
