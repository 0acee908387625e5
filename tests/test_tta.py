from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import logsumexp, softmax

from skincnn.config import AugmentConfig, Config
from skincnn.data.pipeline import evaluation_batches
from skincnn.errors import ConfigError
from skincnn.inference.predict import predict_logits
from skincnn.inference.predictions import arrays, mean_predictions, predictions_table
from skincnn.inference.tta import VIEWS, predict_views

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 8, 8, 3), np.uint8)
CONFIG = Config()
NAMES = ["bkl", "mel", "nv"]


def turned_by_pillow(image: np.ndarray) -> list[np.ndarray]:
    picture = Image.fromarray(image)
    return [image, *(np.asarray(picture.transpose(way)) for way in Image.Transpose)]


def make_model(*, metadata: bool = False) -> keras.Model:
    """A model that sees where in the picture something is."""
    keras.utils.set_random_seed(0)
    inputs = images = keras.Input((8, 8, 3), name="images")
    features = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    if metadata:
        patients = keras.Input((2,), name="metadata")
        inputs = {"images": images, "metadata": patients}
        features = keras.layers.Concatenate()([features, patients])
    return keras.Model(inputs, keras.layers.Dense(3)(features))


def test_the_orientations_are_those_of_pillow() -> None:
    views = VIEWS["d4"](CONFIG, 8)
    ours = {view(IMAGES)[2].tobytes() for view in views}
    assert len(ours) == 8
    assert ours == {turned.tobytes() for turned in turned_by_pillow(IMAGES[2])}
    assert (views[0](IMAGES) == IMAGES).all()


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
def test_the_answer_is_the_mean_over_the_views(metadata: bool) -> None:
    model = make_model(metadata=metadata)
    patients = RNG.normal(size=(5, 2)).astype(np.float32) if metadata else None
    batches = evaluation_batches(IMAGES, patients)
    logits = predict_views(model, batches, VIEWS["d4"](CONFIG, 8))
    found = arrays(mean_predictions([table_of(one) for one in logits]), NAMES)[1]
    kernel, bias = model.get_weights()
    expected = []
    for row, image in enumerate(IMAGES):
        described = [] if patients is None else patients[row]
        seen = [
            np.concatenate([turned.reshape(-1) / 255, described]) @ kernel + bias
            for turned in turned_by_pillow(image)
        ]
        expected.append(np.mean([softmax(logits) for logits in seen], axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert not np.allclose(
        found, softmax(predict_logits(model, batches), axis=1), atol=1e-3
    )


def test_random_views_vary_pictures_as_training_does_and_repeatably() -> None:
    first, second = VIEWS["augment"](CONFIG, 2)
    varied, again = first(IMAGES), second(IMAGES)
    assert varied.dtype == np.uint8
    assert varied.shape == IMAGES.shape
    assert (varied != again).any()
    repeated = VIEWS["augment"](CONFIG, 1)[0](IMAGES)
    assert (repeated == varied).all()


def test_views_that_are_not_to_be_had_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"There are 8 orientations\. Received: .* 9"):
        VIEWS["d4"](CONFIG, 9)
    plain = dataclasses.replace(CONFIG, augment=AugmentConfig(magnitude=0.0))
    with pytest.raises(ConfigError, match="no augmentation"):
        VIEWS["augment"](plain, 2)
