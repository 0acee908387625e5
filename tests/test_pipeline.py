from __future__ import annotations

import dataclasses
import functools
import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import tensorflow as tf

from skincnn.config import DataConfig
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache, cached_images
from skincnn.data.characteristics import DATASET
from skincnn.data.combined import CombinedDataset, open_datasets
from skincnn.data.preprocess import read_image
from skincnn.data.sampling import epoch_batches
from skincnn.errors import DataError
from tfds_ham10000 import demo

SMALL = DataConfig(image_size=32)


@pytest.fixture(scope="module")
def dataset(data_dir: Path) -> CombinedDataset:
    return open_datasets(["demo_tiny"], data_dir)


@pytest.fixture(scope="module")
def table(dataset: CombinedDataset) -> pd.DataFrame:
    return dataset.read_table([3, 8])


def expected_images(table: pd.DataFrame, config: DataConfig) -> npt.NDArray[np.uint8]:
    """Returns the images of a table, rendered and decoded one by one."""
    return np.stack(
        [read_image(rendered(name), config).numpy() for name in table["image_id"]]
    )


@functools.cache
def rendered(image_id: str) -> tf.Tensor:
    """Returns the file of an image of demo_tiny."""
    return tf.constant(demo.make_dataset(300)[1].read(image_id))


def test_images_are_in_the_order_of_the_table(
    dataset: CombinedDataset, table: pd.DataFrame
) -> None:
    columns = {*datasets.TABLE_COLUMNS, datasets.STORED_IN, DATASET, "fold", "sha256"}
    assert set(table.columns) == columns
    assert table["image_id"].is_unique
    assert set(table["fold"]) == {3, 8}
    images = pipeline.load_images(dataset, table, SMALL, "memory")
    assert (images.shape, images.dtype) == ((len(table), 32, 32, 3), np.uint8)
    selected = table.iloc[[0, len(table) - 1]]
    np.testing.assert_array_equal(images[[0, -1]], expected_images(selected, SMALL))


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_rows_may_be_loaded_in_any_order(
    cache: Cache, dataset: CombinedDataset, table: pd.DataFrame
) -> None:
    config = DataConfig(image_size=40, resize_mode="pad", color_constancy=True)
    rows = table.sample(7, random_state=1)
    images = pipeline.load_images(dataset, rows, config, cache)
    np.testing.assert_array_equal(images, expected_images(rows, config))


def test_a_cache_file_is_reused_only_for_the_same_pixels(
    dataset: CombinedDataset, table: pd.DataFrame, data_dir: Path
) -> None:
    def files() -> dict[Path, int]:
        folder = data_dir / "skincnn_images"
        return {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}

    rows = table.head(6)
    pipeline.load_images(dataset, rows, SMALL, "disk")
    first = files()
    pipeline.load_images(dataset, rows, SMALL, "disk")
    # Labels and fields that do not affect the pixels do not create another file.
    other_labels = rows.assign(label=0)
    pipeline.load_images(dataset, other_labels, dataclasses.replace(SMALL, batch_size=7))
    assert files() == first
    for other_rows, config in (
        (rows.iloc[::-1], SMALL),
        (table.head(5), SMALL),
        (rows, dataclasses.replace(SMALL, image_size=33)),
        (rows, dataclasses.replace(SMALL, resize_mode="crop")),
        (rows, dataclasses.replace(SMALL, crop_border=True)),
        (rows, dataclasses.replace(SMALL, color_constancy=True)),
    ):
        before = len(files())
        images = pipeline.load_images(dataset, other_rows, config, "disk")
        assert len(files()) == before + 1
        np.testing.assert_array_equal(images, expected_images(other_rows, config))


def test_images_that_the_dataset_lacks_are_reported(
    dataset: CombinedDataset, table: pd.DataFrame
) -> None:
    foreign = table.head(3).assign(image_id=["unknown", "x", "y"], fold=3)
    with pytest.raises(DataError, match=r"contains \d of the 3 required images"):
        pipeline.load_images(dataset, foreign, SMALL, "memory")


def test_a_damaged_dataset_is_reported(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "ham10000", tmp_path / "ham10000")
    dataset = open_datasets(["demo_tiny"], tmp_path)
    table = dataset.read_table([3])
    (record,) = dataset.folders["demo_tiny"].glob("*fold_3.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        pipeline.load_images(dataset, table, SMALL, "memory")


NUM_IMAGES, BATCH = 50, 8
LABELS = np.arange(NUM_IMAGES) % 7


def numbered(size: int) -> npt.NDArray[np.uint8]:
    """Returns images whose pixels all equal the image number."""
    numbers = np.arange(NUM_IMAGES, dtype=np.uint8)[:, None, None, None]
    return cached_images(
        Path("unused"),
        (NUM_IMAGES, size, size, 3),
        lambda images: np.copyto(images, numbers),
        "memory",
    )


def epochs_of(
    first: int, last: int, seed: int = 0, weights: npt.NDArray[np.float64] | None = None
) -> list[list[int]]:
    """Returns the image numbers of each epoch in order."""
    batches = pipeline.training_batches(
        numbered(4),
        LABELS,
        BATCH,
        seed=seed,
        epochs=range(first, last),
        sampling_weights=weights,
    )
    steps = NUM_IMAGES // BATCH
    assert int(batches.cardinality()) == steps * (last - first)
    epochs: list[list[int]] = [[] for _ in range(first, last)]
    for step, (images, labels) in enumerate(batches.as_numpy_iterator()):
        assert (images.shape, images.dtype) == ((BATCH, 4, 4, 3), np.uint8)
        assert labels.dtype == np.int32
        assert (images == images[:, :1, :1, :1]).all()
        np.testing.assert_array_equal(labels, LABELS[images[:, 0, 0, 0]])
        epochs[step // steps].extend(images[:, 0, 0, 0].tolist())
    assert {len(epoch) for epoch in epochs} == {steps * BATCH}
    return epochs


@pytest.mark.parametrize("weights", [None, np.arange(1.0, 8.0)])
def test_batches_equal_those_of_epoch_batches(
    weights: npt.NDArray[np.float64] | None,
) -> None:
    expected = [
        epoch_batches(LABELS, BATCH, 0, epoch, weights).ravel().tolist()
        for epoch in range(3)
    ]
    assert epochs_of(0, 3, weights=weights) == expected
    assert epochs_of(1, 3, weights=weights) == expected[1:]  # as in a resumed run


def test_batches_can_start_at_any_step() -> None:
    whole = pipeline.training_batches(
        numbered(3), LABELS, BATCH, seed=0, epochs=range(1, 3)
    )
    rest = pipeline.training_batches(
        numbered(3), LABELS, BATCH, seed=0, epochs=range(1, 3), first_step=4
    )
    assert rest.element_spec[0].shape.as_list() == [BATCH, None, None, 3]
    assert int(rest.cardinality()) == int(whole.cardinality()) - 4
    expected = [images for images, _ in whole.as_numpy_iterator()][4:]
    actual = [images for images, _ in rest.as_numpy_iterator()]
    np.testing.assert_array_equal(actual, expected)


def test_metadata_and_images_stay_aligned() -> None:
    """Row n of the metadata is [n, -n], in training and evaluation."""
    numbers = np.arange(NUM_IMAGES, dtype=np.float32)
    metadata = np.stack([numbers, -numbers], axis=1)
    training = pipeline.training_batches(
        numbered(3), LABELS, BATCH, seed=0, epochs=range(2), metadata=metadata
    )
    evaluation = pipeline.evaluation_batches(numbered(3), metadata)
    seen = []
    for inputs, labels in training.as_numpy_iterator():
        positions = inputs["images"][:, 0, 0, 0]
        np.testing.assert_array_equal(inputs["metadata"], metadata[positions])
        np.testing.assert_array_equal(labels, LABELS[positions])
    for inputs in evaluation.as_numpy_iterator():
        seen += inputs["images"][:, 0, 0, 0].tolist()
        np.testing.assert_array_equal(
            inputs["metadata"][:, 0], inputs["images"][:, 0, 0, 0]
        )
    assert seen == list(range(NUM_IMAGES))


@pytest.mark.parametrize("first_step", [0, 4])
def test_one_variant_of_each_image_is_drawn(first_step: int) -> None:
    """The features are [image number, variant number]."""
    numbers = np.arange(NUM_IMAGES, dtype=np.float32)
    features = np.stack([np.repeat(numbers, 4), np.tile(np.arange(4), NUM_IMAGES)], axis=1)
    expected = pipeline.training_batches(
        numbered(3), LABELS, BATCH, seed=0, epochs=range(1, 4), first_step=first_step
    )
    batches = pipeline.training_batches(
        features.astype(np.float32),
        LABELS,
        BATCH,
        seed=0,
        epochs=range(1, 4),
        first_step=first_step,
        variants=4,
        metadata=numbers[:, None],
    )
    drawn = []
    for (images, labels), (inputs, same) in zip(expected, batches, strict=True):
        positions = images[:, 0, 0, 0].numpy()
        np.testing.assert_array_equal(labels, same)
        np.testing.assert_array_equal(inputs["images"][:, 0], positions)
        np.testing.assert_array_equal(inputs["metadata"][:, 0], positions)
        drawn.append(inputs["images"][:, 1].numpy())
    assert set(np.ravel(drawn)) == {0, 1, 2, 3}
    # The draws differ between epochs, and do not depend on where training starts.
    steps = NUM_IMAGES // BATCH
    assert not np.array_equal(drawn[-steps:], drawn[-2 * steps : -steps])
    rows = np.random.default_rng([0, 3, 1]).integers(4, size=(steps, BATCH))
    np.testing.assert_array_equal(drawn[-steps:], rows)


def test_features_are_returned_in_order() -> None:
    """Their memory is not aligned, so they are copied."""
    features = np.frombuffer(b"x" + np.arange(600.0).astype("<f4").tobytes(), np.uint8)
    features = features[1:].view("<f4").reshape(300, 2)
    batches = list(pipeline.evaluation_batches(features).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate(batches), features)


def test_images_are_released_with_the_batches() -> None:
    freed: list[int] = []
    images = numbered(3)
    weakref.finalize(images.base, freed.append, 3)
    batches = pipeline.training_batches(images, LABELS, BATCH, seed=0, epochs=range(2))
    del images
    read = sum(len(labels) for _, labels in batches)
    assert read == 2 * (NUM_IMAGES // BATCH) * BATCH
    assert not freed
    del batches
    gc.collect()
    assert freed == [3]


def test_batches_share_the_memory_of_the_images_and_release_it(tmp_path: Path) -> None:
    shape = (64, 256, 256, 3)  # 12 MiB
    freed = []
    for cache in ("memory", "disk"):
        images = cached_images(tmp_path / "x.npy", shape, lambda a: a.fill(1), cache)
        batches = pipeline.evaluation_batches(images)
        images[0] = 7
        assert next(batches.as_numpy_iterator())[0].max() == 7
        weakref.finalize(images.base, freed.append, cache)
        del images, batches
        gc.collect()
    assert freed == ["memory", "disk"]


@pytest.mark.parametrize("memory", ["not aligned", "strided", "read-only"])
def test_any_array_memory_gives_the_same_batches(memory: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (601, 4, 4, 3), np.uint8)
    if memory == "not aligned":
        images = np.frombuffer(b"x" + images.tobytes(), np.uint8, offset=1)
        images = images.reshape(601, 4, 4, 3)
    elif memory == "strided":
        images = images[::2]
    else:
        images.setflags(write=False)
    batches = list(pipeline.evaluation_batches(images).as_numpy_iterator())
    assert [len(batch) for batch in batches[:-1]] == [128] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate(batches), images)


def test_the_fingerprint_depends_on_labels_and_images_but_not_on_order(
    data_dir: Path,
) -> None:
    table = open_datasets(["demo_tiny"], data_dir).read_table([0])
    same = pipeline.fingerprint(table.sample(frac=1, random_state=0))
    assert same == pipeline.fingerprint(table)
    changed = table.assign(label=(table["label"] + 1) % 7)
    assert pipeline.fingerprint(changed) != pipeline.fingerprint(table)
    other_image = table.assign(sha256=table["sha256"].where(table.index > 0, "0"))
    assert pipeline.fingerprint(other_image) != pipeline.fingerprint(table)
    assert table["sha256"].is_unique


def test_the_error_for_a_missing_dataset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"skincnn prepare-data --config isic2018"):
        datasets.open_dataset("isic2018", tmp_path)
