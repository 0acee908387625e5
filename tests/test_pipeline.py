from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import jpeg
from PIL import Image

from skincnn.data import datasets, pipeline
from skincnn.errors import DataError


@pytest.mark.parametrize("size", [(200, 150), (90, 130)])
def test_decoding_and_resizing_agree_with_pillow(size: tuple[int, int]) -> None:
    content = jpeg(1, size)
    image = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.BILINEAR)
    ours = pipeline.decode_image(tf.constant(content), 64).numpy().astype(int)
    assert ours.shape == (64, 64, 3)
    # Pillow rounds after each of two passes.
    assert np.abs(ours - np.asarray(image, int)).max() <= 1


def test_png_is_read_as_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    image = pipeline.decode_image(tf.constant(buffer.getvalue()), 48)
    np.testing.assert_array_equal(image, pixels)


def test_table_and_images_stand_in_one_order(data_dir: Path) -> None:
    builder = datasets.open_dataset("demo_tiny", data_dir)
    table = pipeline.read_table(builder, [3, 8])
    assert set(table.columns) == {*pipeline.TABLE_COLUMNS, "fold", "sha256"}
    assert table["image_id"].is_unique
    rows = list(pipeline.read_images(builder, [3, 8], 32).as_numpy_iterator())
    assert [int(label) for _, label in rows] == table["label"].tolist()
    from tfds_ham10000 import demo

    _, made = demo.make_dataset(300)
    for position in (0, len(rows) - 1):
        expected = pipeline.decode_image(
            tf.constant(made.read(table["image_id"][position])), 32
        )
        np.testing.assert_array_equal(rows[position][0], expected)


def test_training_batches_are_shuffled_anew_and_repeatable() -> None:
    numbers = tf.data.Dataset.range(50).map(lambda i: (i, i))

    def epochs(seed: int) -> list[list[int]]:
        batches = pipeline.training_batches(numbers, 8, seed)
        return [
            np.concatenate([x for x, _ in batches.as_numpy_iterator()]).tolist()
            for _ in range(2)
        ]

    first, second = epochs(0)
    assert len(first) == len(set(first)) == 48
    assert first != second
    assert first != sorted(first)
    assert epochs(0) == [first, second]
    assert epochs(1) != [first, second]


def test_the_fingerprint_sees_labels_and_pictures_and_not_order(data_dir: Path) -> None:
    table = pipeline.read_table(datasets.open_dataset("demo_tiny", data_dir), [0])
    same = pipeline.fingerprint(table.sample(frac=1, random_state=0))
    assert same == pipeline.fingerprint(table)
    changed = table.assign(label=(table["label"] + 1) % 7)
    assert pipeline.fingerprint(changed) != pipeline.fingerprint(table)
    other_picture = table.assign(sha256=table["sha256"].where(table.index > 0, "0"))
    assert pipeline.fingerprint(other_picture) != pipeline.fingerprint(table)
    assert table["sha256"].is_unique


def test_a_dataset_that_is_not_built_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scripts/prepare_data\.py --config isic2018"):
        datasets.open_dataset("isic2018", tmp_path)
