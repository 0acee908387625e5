"""Detection of out-of-distribution images: images, distances and scores."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial.distance import cosine

from skincnn.config import DataConfig, EvaluateConfig, ModelConfig
from skincnn.data.pipeline import evaluation_batches
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.ood import MIN_DISTANCE, choose_max_distance, score_all_ood
from skincnn.inference.ood import (
    MAX_REFERENCES,
    NUM_NEIGHBORS,
    ReferenceFeatures,
    choose_references,
)
from skincnn.inference.ood_images import (
    GENERATED,
    IMAGES_PER_SET,
    RUINED,
    make_ood_images,
    read_ood_folder,
)
from skincnn.inference.predict import predict, with_features
from skincnn.model.classifier import build_classifier
from skincnn.serving.network import add_ood_distance

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


def test_invalid_folders_are_errors(tmp_path: Path) -> None:
    for name in ("empty", "noise", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken/broken.jpg").write_text("<html>")
    with pytest.raises(ConfigError, match=r"contains no images. Expected files ending in"):
        read_ood_folder(tmp_path / "empty", DATA)
    with pytest.raises(ConfigError, match="'noise' is the name of a set"):
        read_ood_folder(tmp_path / "noise", DATA)
    with pytest.raises(DataError, match=r"broken\.jpg cannot be decoded as an image"):
        read_ood_folder(tmp_path / "broken", DATA)


RNG_FEATURES = np.random.default_rng(0).gamma(1, size=(60, 8))


def slow_distance(row: np.ndarray, references: np.ndarray) -> float:
    """Returns the cosine distance of a row from its tenth nearest reference."""
    return sorted(cosine(row, reference) for reference in references)[NUM_NEIGHBORS - 1]


def test_distances_match_scipy() -> None:
    references = ReferenceFeatures.fit(RNG_FEATURES)
    assert len(references.references) == 60
    new = np.random.default_rng(1).gamma(1, size=(5, 8))
    expected = [slow_distance(row, RNG_FEATURES) for row in new]
    # The references are rounded to float16.
    np.testing.assert_allclose(references.distances(new), expected, atol=1e-3)
    np.testing.assert_allclose(
        references.distances(1e3 * new), references.distances(new), rtol=1e-9
    )


def test_validation_distances_are_those_from_other_groups() -> None:
    groups = [f"g{n // 3}" for n in range(60)]
    distances = ReferenceFeatures.fit(RNG_FEATURES).validation_distances(
        RNG_FEATURES, groups
    )
    for row in (0, 31, 59):
        others = [n for n in range(60) if groups[n] != groups[row]]
        expected = slow_distance(RNG_FEATURES[row], RNG_FEATURES[others])
        assert distances[row] == pytest.approx(expected, abs=1e-3)
    # No image has ten references of other groups.
    halves = ReferenceFeatures.fit(RNG_FEATURES[:18])
    too_few = halves.validation_distances(RNG_FEATURES[:18], ["a"] * 9 + ["b"] * 9)
    np.testing.assert_array_equal(too_few, 2)


def test_the_number_of_references_is_limited() -> None:
    features = np.random.default_rng(0).normal(size=(MAX_REFERENCES + 40, 3))
    references = ReferenceFeatures.fit(features).references
    assert references.shape == (MAX_REFERENCES, 3)
    chosen = choose_references(len(features))
    assert len(set(chosen)) == MAX_REFERENCES
    assert chosen.max() >= MAX_REFERENCES  # not only the first images
    expected = features[chosen] / np.linalg.norm(features[chosen], axis=1, keepdims=True)
    np.testing.assert_allclose(references, expected, atol=1e-3)


def test_features_without_a_direction_are_far() -> None:
    references = ReferenceFeatures.fit(np.eye(12))
    np.testing.assert_array_equal(references.distances(np.zeros((2, 12))), 1)


def test_the_network_computes_the_same_distances() -> None:
    classifier = build_classifier(
        ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none"), 3
    )
    images = np.random.default_rng(0).uniform(0, 255, (40, 32, 32, 3)).astype(np.float32)
    features = predict(with_features(classifier), evaluation_batches(images, None))[1]
    references = ReferenceFeatures.fit(features[:30])
    served = add_ood_distance(classifier, references)(images)["ood_distance"]
    expected = references.distances(features)
    assert expected.max() > 1e-5
    np.testing.assert_allclose(served, expected, rtol=1e-3, atol=1e-6)


def test_references_are_written_and_read(tmp_path: Path) -> None:
    references = ReferenceFeatures.fit(RNG_FEATURES)
    path = tmp_path / "ood.npz"
    references.write(path)
    np.testing.assert_array_equal(
        ReferenceFeatures.read(path).references, references.references
    )
    for content in (b"", b"damaged", path.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"ood\.npz cannot be read.*evaluate\.py"):
            ReferenceFeatures.read(path)


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
    "val": make_table(RNG.normal(0.2, 0.01, 400)),
    "test": make_table(RNG.normal(0.205, 0.01, 300)),
    "fold_3": make_table(RNG.normal(0.21, 0.01, 200)),
}
OOD = pd.DataFrame(
    {
        "set": ["far"] * 40 + ["near"] * 60,
        "distance": np.concatenate([RNG.normal(0.3, 0.01, 40), RNG.normal(0.21, 0.01, 60)]),
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


def test_the_limit_exceeds_rounding_errors() -> None:
    validation = make_table(np.full(20, 1e-7))
    ood = pd.DataFrame({"set": "noise", "distance": np.full(10, 2e-7)})
    assert choose_max_distance(validation, {"ood": ood}) is None
    far = ood.assign(distance=0.5)
    assert choose_max_distance(validation, {"ood": far}) == MIN_DISTANCE
