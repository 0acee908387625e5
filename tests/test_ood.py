"""Detection of out-of-distribution images: images, distances and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial.distance import mahalanobis

from skincnn.config import DataConfig, EvaluateConfig
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.ood import score_all_ood
from skincnn.inference.ood import (
    IMAGES_PER_SET,
    OOD_SETS,
    FeatureGaussian,
    cross_validated_distances,
    make_ood_images,
    read_ood_folder,
)

DATA = DataConfig(image_size=32)
CONFIG = EvaluateConfig(num_bootstrap=200)


@pytest.mark.parametrize("name", OOD_SETS)
def test_built_in_images_are_reproducible(name: str) -> None:
    first, second = (list(OOD_SETS[name](np.random.default_rng(0))) for _ in range(2))
    assert len(first) == IMAGES_PER_SET
    for image, copy in zip(first, second, strict=True):
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        np.testing.assert_array_equal(image, copy)
    assert len({image.tobytes() for image in first}) > IMAGES_PER_SET / 2


def test_built_in_images_have_unique_names() -> None:
    rows, images = make_ood_images(DATA)
    assert images.shape == (len(OOD_SETS) * IMAGES_PER_SET, 32, 32, 3)
    assert rows["set"].value_counts(sort=False).to_dict() == dict.fromkeys(
        OOD_SETS, IMAGES_PER_SET
    )
    assert rows["image_id"].is_unique


def test_a_folder_is_read_recursively(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    (folder / "sub").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (40, 30), (number, 200, 0)).save(folder / f"sub/{number}.PNG")
    (folder / "notes.txt").write_text("not an image")
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


def test_distances_match_scipy() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    features = rng.normal(size=(20_000, 4)) @ mixing + 3
    gaussian = FeatureGaussian.fit(features)
    # With so many images, the shrinkage is negligible.
    mean, precision = features.mean(axis=0), np.linalg.inv(np.cov(features.T))
    expected = [mahalanobis(row, mean, precision) ** 2 / 4 for row in features[:50]]
    distances = gaussian.distances(features)
    np.testing.assert_allclose(distances[:50], expected, rtol=0.02)
    assert distances.mean() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("num_varying", [0, 2])
def test_float32_rounding_does_not_affect_distances(num_varying: int) -> None:
    """The rounding of constant features depends on the processor."""
    rng = np.random.default_rng(0)
    varying = rng.normal(0.2, 0.1, (5_000, num_varying))
    constant = np.full((5_000, 8), 0.17)

    def rounded() -> np.ndarray:
        noise = rng.choice([-1, 0, 1], constant.shape) * np.spacing(np.float32(0.17))
        return np.concatenate([varying, constant + noise], axis=1).astype(np.float32)

    gaussian = FeatureGaussian.fit(rounded())
    first, second = (gaussian.distances(rounded()) for _ in range(2))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
    expected = np.square((varying - 0.2) / 0.1).sum(axis=1) / (num_varying + 8)
    np.testing.assert_allclose(first, expected, rtol=0.1, atol=0.01)


def test_cross_validated_distances_are_those_from_other_lesions() -> None:
    rng = np.random.default_rng(0)
    lesions = [f"l{n // 2}" for n in range(60)]
    features = np.repeat(rng.normal(size=(30, 40)), 2, axis=0)
    distances = cross_validated_distances(features, lesions)
    fitted = FeatureGaussian.fit(features).distances(features)
    assert (distances > fitted).mean() > 0.9
    np.testing.assert_allclose(distances[::2], distances[1::2])
    # With two lesions, each is compared with the other one.
    two = np.concatenate([rng.normal(0, 1, (10, 3)), rng.normal(5, 1, (10, 3))])
    halves = cross_validated_distances(two, ["a"] * 10 + ["b"] * 10)
    np.testing.assert_allclose(
        halves[:10], FeatureGaussian.fit(two[10:]).distances(two[:10])
    )


def test_a_gaussian_is_written_and_read(tmp_path: Path) -> None:
    gaussian = FeatureGaussian.fit(np.random.default_rng(0).normal(size=(20, 3)))
    path = tmp_path / "ood.npz"
    gaussian.write(path)
    copy = FeatureGaussian.read(path)
    np.testing.assert_array_equal(copy.mean, gaussian.mean)
    np.testing.assert_array_equal(copy.precision, gaussian.precision)
    for content in (b"", b"damaged", path.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"ood\.npz cannot be read.*evaluate\.py"):
            FeatureGaussian.read(path)


def make_table(distances: np.ndarray) -> pd.DataFrame:
    lesions = [f"l{n // 2}" for n in range(len(distances))]
    images = [f"i{n:04d}" for n in range(len(distances))]
    return pd.DataFrame({"image_id": images, "lesion_id": lesions, "distance": distances})


RNG = np.random.default_rng(0)
TABLES = {
    "val": make_table(RNG.normal(-5, 1, 400)),
    "test": make_table(RNG.normal(-4.5, 1, 300)),
    "fold_3": make_table(RNG.normal(-4, 1, 200)),
}
OOD = pd.DataFrame(
    {
        "set": ["far"] * 40 + ["near"] * 60,
        "distance": np.concatenate([RNG.normal(5, 1, 40), RNG.normal(-4, 1, 60)]),
    }
)


def test_scores_match_a_direct_computation() -> None:
    tables = {split: TABLES[split] for split in ("val", "test")}
    result = score_all_ood(tables, {"ood": OOD}, CONFIG)["ood"]
    assert sum(TABLES["val"]["distance"] > result.max_distance) == 20  # of 400
    assert result.accepted_validation == 0.95
    test = TABLES["test"]["distance"].to_numpy()
    assert set(result.splits) == {"test"}
    rejected = result.splits["test"].rejected
    assert rejected.value == pytest.approx(np.mean(test > result.max_distance), abs=1e-6)
    assert rejected.low < rejected.value < rejected.high
    far, near = result.sets
    assert (far.name, far.num_images, far.rejected, far.auc) == ("far", 40, 1, 1)
    distances = OOD["distance"][40:].to_numpy()
    assert near.rejected == pytest.approx(
        np.mean(distances > result.max_distance), abs=1e-6
    )
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
