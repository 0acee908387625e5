"""Detection of out-of-distribution images: images, distances and scores."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.covariance import LedoitWolf

from skincnn.config import DataConfig, EvaluateConfig, ModelConfig
from skincnn.data.pipeline import evaluation_batches
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.ood import MIN_DISTANCE, choose_max_distance, score_all_ood
from skincnn.inference.ood import NUM_PARTS, BlockGaussian, FeatureGaussian, fit_gaussian
from skincnn.inference.ood_images import (
    GENERATED,
    IMAGES_PER_SET,
    RUINED,
    make_ood_images,
    read_ood_folder,
)
from skincnn.inference.predict import predict, with_features
from skincnn.model.classifier import POOLING_LAYER, build_classifier
from skincnn.serving.network import build_network

DATA = DataConfig(image_size=32)
CONFIG = EvaluateConfig(num_bootstrap=200)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_images_are_reproducible(name: str) -> None:
    first, second = (list(GENERATED[name](np.random.default_rng(0))) for _ in range(2))
    assert len(first) == IMAGES_PER_SET
    for image, copy in zip(first, second, strict=True):
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        np.testing.assert_array_equal(image, copy)
    assert len({image.tobytes() for image in first}) > IMAGES_PER_SET / 2


def test_ruined_images_are_described_correctly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    for ruin in RUINED.values():
        assert ruin(image).dtype == np.uint8
        assert ruin(image).shape == image.shape
    np.testing.assert_array_equal(RUINED["inverted colors"](image) + image, 255)
    assert RUINED["nearly black"](image).max() <= 21
    assert RUINED["nearly white"](image).min() >= 224
    assert RUINED["extreme blur"](image).std() < image.std() / 5
    incomplete = RUINED["incomplete"](image)
    np.testing.assert_array_equal(incomplete[:20], image[:20])
    assert (incomplete[20:] == 128).all()


def test_built_in_images_have_unique_names() -> None:
    validation = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    rows, images = make_ood_images(DATA, validation)
    sizes = dict.fromkeys(GENERATED, IMAGES_PER_SET) | dict.fromkeys(RUINED, 20)
    assert rows["set"].value_counts(sort=False).to_dict() == sizes
    assert images.shape == (len(rows), 32, 32, 3)
    assert rows["image_id"].is_unique
    inverted = images[(rows["set"] == "inverted colors").to_numpy()]
    np.testing.assert_array_equal(inverted, 255 - validation)


def test_a_folder_is_read_recursively(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    (folder / "sub").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (40, 30), (number, 200, 0)).save(folder / f"sub/{number}.PNG")
    (folder / "notes.txt").write_text("not an image")
    os.mkfifo(folder / "pipe.jpg")  # reading it would block
    rows, images = read_ood_folder(folder, DATA)
    expected = {"set": ["cats"] * 2, "image_id": ["cats/sub/0.PNG", "cats/sub/1.PNG"]}
    pd.testing.assert_frame_equal(rows, pd.DataFrame(expected))
    assert images.shape == (2, 32, 32, 3)


def test_invalid_folders_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("empty", "noise", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken/broken.jpg").write_text("<html>")
    with pytest.raises(ConfigError, match=r"contains no images. Expected files ending in"):
        read_ood_folder(tmp_path / "empty", DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "no permission")))
        with pytest.raises(ConfigError, match=r"empty cannot be read \(no permission\)"):
            read_ood_folder(tmp_path / "empty", DATA)
    with pytest.raises(ConfigError, match="missing is not a directory"):
        read_ood_folder(tmp_path / "missing", DATA)
    with pytest.raises(ConfigError, match="'noise' is the name of a set"):
        read_ood_folder(tmp_path / "noise", DATA)
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read as an image"):
        read_ood_folder(tmp_path / "broken", DATA)


RNG_FEATURES = [np.random.default_rng(n).gamma(2, size=(400, n)) for n in (4, 6, 8)]
GROUPS = [f"g{n // 2}" for n in range(400)]


def slow_distances(fitted: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns Mahalanobis distances from a Gaussian, computed by scikit-learn."""
    std = fitted.std(axis=0)
    model = LedoitWolf(assume_centered=True).fit((fitted - fitted.mean(axis=0)) / std)
    return np.sqrt(model.mahalanobis((others - fitted.mean(axis=0)) / std))


def test_distances_match_scikit_learn() -> None:
    gaussian, validation = fit_gaussian(RNG_FEATURES, GROUPS)
    part = np.arange(400) // 2 % NUM_PARTS  # each group is in one part
    new = [np.random.default_rng(9 + n).gamma(1, size=(5, n)) for n in (4, 6, 8)]
    expected, expected_validation = np.zeros(5), np.zeros(400)
    for fitted, others in zip(RNG_FEATURES[:-1], new[:-1], strict=True):
        own = np.empty(400)
        for number in range(NUM_PARTS):
            is_own = part == number
            own[is_own] = slow_distances(fitted[~is_own], fitted[is_own])
        limit = np.quantile(own, 0.95)
        expected_validation = np.maximum(expected_validation, own / limit)
        expected = np.maximum(expected, slow_distances(fitted, others) / limit)
    np.testing.assert_allclose(validation, expected_validation, rtol=1e-5)
    np.testing.assert_allclose(gaussian.distances(new), expected, rtol=1e-5)
    assert 1 <= np.quantile(validation, 0.95) < 1.3


@pytest.mark.parametrize("num_features", [1, 8])
def test_the_covariance_is_that_of_ledoit_and_wolf_without_an_estimator(
    num_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow logs a run for each `fit` of an estimator of scikit-learn."""
    values = np.random.default_rng(0).gamma(1, size=(40, num_features))
    expected = slow_distances(values, values)
    monkeypatch.setattr(LedoitWolf, "fit", None)
    distances = BlockGaussian.fit(values).distances(values)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)


def test_one_inner_block_is_enough_to_reject_an_image() -> None:
    """The last block of a fine-tuned network can be blind to unsuitable images."""
    gaussian, _ = fit_gaussian(RNG_FEATURES, GROUPS)
    assert len(gaussian.blocks) == 2
    first, second, last = (block.mean(axis=0, keepdims=True) for block in RNG_FEATURES)
    for far in ([20 * first, second, last], [first, 20 * second, last]):
        assert gaussian.distances(far)[0] > 5
    assert gaussian.distances([first, second, 20 * last])[0] < 0.1
    # If the backbone has one block, it counts.
    only, _ = fit_gaussian([RNG_FEATURES[0]], GROUPS)
    assert only.distances([20 * first])[0] > 5


@pytest.mark.parametrize("count", [4, 12])
def test_few_or_equal_validation_images_do_not_cause_errors(count: int) -> None:
    groups = [str(n) for n in range(count)]
    for features in (RNG_FEATURES[2][:count], np.ones((count, 8))):
        gaussian, validation = fit_gaussian([features], groups)
        assert np.isfinite([*validation, *gaussian.distances([RNG_FEATURES[2]])]).all()


def test_the_network_computes_the_same_distances() -> None:
    """Names of layers of a loaded model are used again, as in a new process."""
    keras.utils.clear_session()
    classifier = build_classifier(
        ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none"), 3
    )
    images = np.random.default_rng(0).uniform(0, 255, (60, 32, 32, 3)).astype(np.float32)
    images *= np.linspace(0.1, 1, 60)[:, None, None, None]
    logits, *features = predict(with_features(classifier), evaluation_batches(images, None))
    assert [block.shape for block in features] == [(60, n) for n in (8, 16, 32, 64)]
    np.testing.assert_allclose(logits, classifier(images), rtol=1e-5, atol=1e-6)
    pooled = classifier.get_layer(POOLING_LAYER).output
    expected = keras.Model(classifier.input, pooled)(images)
    np.testing.assert_allclose(features[-1], expected, rtol=1e-5, atol=1e-6)
    gaussian, _ = fit_gaussian(
        [block[::2] for block in features], [str(n) for n in range(30)]
    )
    keras.utils.clear_session()
    outputs = build_network(classifier, gaussian)({"images": images})
    expected = gaussian.distances(features)
    assert expected.max() > 0.5
    np.testing.assert_allclose(outputs["ood_distance"], expected, rtol=1e-2)
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5, atol=1e-6)


def test_the_gaussian_is_written_and_read(tmp_path: Path) -> None:
    gaussian, _ = fit_gaussian(RNG_FEATURES, GROUPS)
    path = tmp_path / "ood.npz"
    gaussian.write(path)
    for block, expected in zip(
        FeatureGaussian.read(path).blocks, gaussian.blocks, strict=True
    ):
        np.testing.assert_array_equal(block.mean, expected.mean)
        np.testing.assert_array_equal(block.whitening, expected.whitening)
    for content in (b"", b"damaged", path.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not a valid \.npz file\..*skincnn evaluate"):
            FeatureGaussian.read(path)


def make_table(distances: np.ndarray) -> pd.DataFrame:
    lesions = [f"l{n // 2}" for n in range(len(distances))]
    images = [f"i{n:04d}" for n in range(len(distances))]
    return pd.DataFrame(
        {
            "image_id": images,
            "lesion_id": lesions,
            "group_id": lesions,
            "distance": distances,
        }
    )


RNG = np.random.default_rng(0)
TABLES = {
    "val": make_table(RNG.normal(2, 0.1, 400)),
    "test": make_table(RNG.normal(2.05, 0.1, 300)),
    "fold_3": make_table(RNG.normal(2.1, 0.1, 200)),
}
OOD = pd.DataFrame(
    {
        "set": ["far"] * 40 + ["near"] * 60,
        "distance": np.concatenate([RNG.normal(3, 0.1, 40), RNG.normal(2.1, 0.1, 60)]),
    }
)


def test_scores_match_a_direct_computation() -> None:
    tables = {split: TABLES[split] for split in ("val", "test")}
    result = score_all_ood(tables, {"ood": OOD}, CONFIG)["ood"]
    assert sum(TABLES["val"]["distance"] > result.limit) == 20  # of 400
    assert result.accepted_validation == 0.95
    test = TABLES["test"]["distance"].to_numpy()
    assert set(result.splits) == {"test"}
    rejected = result.splits["test"].rejected
    assert rejected.value == pytest.approx(np.mean(test > result.limit), abs=1e-6)
    assert rejected.low < rejected.value < rejected.high
    far, near = result.sets
    assert (far.name, far.num_images, far.rejected, far.auc) == ("far", 40, 1, 1)
    distances = OOD["distance"][40:].to_numpy()
    assert near.rejected == pytest.approx(np.mean(distances > result.limit), abs=1e-6)
    pairs = np.mean(distances[:, None] > test)
    assert near.auc == pytest.approx(pairs, abs=1e-6)


def test_each_split_has_its_own_results() -> None:
    folder = OOD.query("set == 'near'")
    results = score_all_ood(TABLES, {"ood": OOD, "ood.cats": folder}, CONFIG)
    assert list(results) == ["ood", "fold_3.ood", "ood.cats", "fold_3.ood.cats"]
    # Another split does not change the results of the test split.
    tables = {split: TABLES[split] for split in ("val", "test")}
    assert results["ood"] == score_all_ood(tables, {"ood": OOD}, CONFIG)["ood"]
    assert set(results["fold_3.ood.cats"].splits) == {"fold_3"}
    distances = TABLES["fold_3"]["distance"].to_numpy()
    pairs = np.mean(folder["distance"].to_numpy()[:, None] > distances)
    assert results["fold_3.ood.cats"].sets[0].auc == pytest.approx(pairs, abs=1e-6)


def test_gaussians_of_one_or_two_images_are_finite() -> None:
    for count in (1, 2):
        features = np.arange(3.0 * count).reshape(count, 3)
        gaussian, distances = fit_gaussian([features], [f"{i}" for i in range(count)])
        assert np.isfinite(distances).all()
        assert np.isfinite(gaussian.distances([features + 1])).all()


def test_detection_that_misses_a_built_in_set_is_switched_off() -> None:
    validation = TABLES["val"]
    limit = np.quantile(validation["distance"], 0.95)

    def choose(far: int, near: int) -> float | None:
        """Returns the choice if `far` and `near` of 10 images of a set are rejected."""
        rejected = np.concatenate([np.arange(10) < far, np.arange(10) < near])
        distances = np.where(rejected, limit + 0.1, limit - 0.1)
        table = pd.DataFrame({"set": ["far"] * 10 + ["near"] * 10, "distance": distances})
        results = score_all_ood(TABLES, {"ood": table, "ood.cats": table[:10]}, CONFIG)
        chosen = choose_max_distance(validation, {"ood": table})
        assert {result.is_on for result in results.values()} == {chosen is not None}
        return chosen

    assert choose(10, 10) == choose(10, 5) == pytest.approx(limit)
    assert choose(10, 4) is None
    # Only the built-in images count.
    assert choose_max_distance(validation, {"ood.cats": OOD}) is None


def test_a_limit_of_rounding_errors_is_not_used() -> None:
    validation = make_table(np.full(20, 0.1))
    ood = pd.DataFrame({"set": "noise", "distance": np.full(10, 0.2)})
    assert choose_max_distance(validation, {"ood": ood}) is None
    far = ood.assign(distance=5)
    assert choose_max_distance(validation, {"ood": far}) == MIN_DISTANCE == 1
