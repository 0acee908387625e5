"""From TFDS records to batches of uint8 pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

EVALUATION_BATCH_SIZE = 128
TABLE_COLUMNS = (
    "image_id",
    "lesion_id",
    "group_id",
    "label",
    "dx_type",
    "age",
    "sex",
    "localization",
    "dataset",
)


def decode_image(content: tf.Tensor, image_size: int) -> tf.Tensor:
    """Returns the picture in a JPEG or PNG file at the size of the model.

    This very function serves training, evaluation and the exported model. JPEG is decoded
    with the accurate inverse transform, which equals Pillow's; resizing is bilinear
    with antialiasing and squashes the picture to a square.

    Args:
        content: The bytes of the file, a string scalar.
        image_size: Height and width to return.

    Returns:
        uint8 [image_size, image_size, 3] in 0..255.
    """
    image = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
    return resize_image(image, image_size)


def resize_image(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Returns `image` [..., height, width, 3] as uint8 [..., image_size, image_size, 3].

    Bilinear with antialiasing, rounded to the nearest grey level.
    """
    image = tf.image.resize(image, (image_size, image_size), antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


def read_table(builder: tfds.core.DatasetBuilder, folds: Iterable[int]) -> pd.DataFrame:
    """Returns what is known of each picture of some folds, a row each, without pictures.

    Columns are `TABLE_COLUMNS`, `fold`, and the `sha256` of the picture's file; `label` is
    the integer of the class. Rows stand in the order in which `read_images` gives the
    pictures.
    """
    folds = list(folds)
    rows = [
        {**row, "sha256": hashlib.sha256(row.pop("image")).hexdigest()}
        for row in tfds.as_numpy(_rows(builder, folds))
    ]
    table = pd.DataFrame(rows, columns=[*TABLE_COLUMNS, "sha256"])
    for name in set(TABLE_COLUMNS) - {"label", "age"}:
        table[name] = table[name].map(bytes.decode)
    sizes = [builder.info.splits[f"fold_{fold}"].num_examples for fold in folds]
    return table.assign(fold=np.repeat(folds, sizes))


def read_images(
    builder: tfds.core.DatasetBuilder, folds: Iterable[int], image_size: int
) -> tf.data.Dataset:
    """Returns the (image, label) pairs of some folds, in the order of `read_table`.

    Pictures are decoded and resized once, in the first pass, and kept in memory as uint8
    [image_size, image_size, 3] after it; labels are int32 scalars.
    """
    return (
        _rows(builder, folds)
        .map(
            lambda row: (
                decode_image(row["image"], image_size),
                tf.cast(row["label"], tf.int32),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .cache()
    )


def training_batches(
    images: tf.data.Dataset, batch_size: int, seed: int
) -> tf.data.Dataset:
    """Returns shuffled, full batches (uint8 [batch, h, w, 3], int32 [batch]).

    Shuffles over the whole set, anew in each epoch, by `seed`. The pictures that do not
    fill a last batch are left out of an epoch, others in each.
    """
    count = int(images.cardinality())
    # Shuffle before batch: whole-set shuffling of single pictures, and after the cache,
    # or the first epoch's order would be cached with the pictures.
    return (
        images.shuffle(count, seed=seed, reshuffle_each_iteration=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )


def evaluation_batches(images: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the pictures alone, in order: uint8 [batch, height, width, 3]."""
    return images.map(lambda image, _: image).batch(EVALUATION_BATCH_SIZE).prefetch(2)


def fingerprint(table: pd.DataFrame) -> str:
    """Returns a SHA-256 over pictures, image_id, lesion_id, label and fold of each row.

    It does not depend on the order of the rows.
    """
    columns = ["image_id", "lesion_id", "label", "fold", "sha256"]
    rows = table[columns].sort_values("image_id")
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()


def _rows(builder: tfds.core.DatasetBuilder, folds: Iterable[int]) -> tf.data.Dataset:
    """Returns the records of some folds, fold after fold; pictures stay file bytes."""
    return builder.as_dataset(
        split="+".join(f"fold_{fold}" for fold in folds),
        decoders={"image": tfds.decode.SkipDecoding()},
        # One file after the other, or the folds would be mixed. TFDS would also keep
        # *decoded* pictures of a small dataset in memory.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
