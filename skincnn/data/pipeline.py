"""From TFDS records to batches of uint8 pictures.

Pictures are decoded and resized once, into one array, and batches are gathered from it.
Of the ways to gather tried on two cores (4,000 pictures of 160 px, batches of 32, best of
four, on a machine that others used), a generator of batches gave 13,000 pictures a second,
`numpy_function` in a parallel map 18,000, `tf.gather` on the memory of the array 50,000 and
more; `tf.constant` would have copied the array.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from skincnn.config import DataConfig
from skincnn.data.cache import ALIGNMENT, Cache, Images, cached_images, empty_array
from skincnn.data.preprocess import read_image
from skincnn.data.reading import preprocessing_fields
from skincnn.data.sampling import epoch_batches, steps_per_epoch
from skincnn.errors import DataError

Metadata = npt.NDArray[np.float32]
"""Rows of `metadata.encode_metadata`."""
EVALUATION_BATCH_SIZE = 128
READING_BATCH_SIZE = 64
READING_THREADS = 2 * (os.cpu_count() or 1)
"""Pictures that are decoded at a time; two for a core, so that none waits for a batch."""
GATHERING_THREADS = 2
CACHE_FOLDER = "skincnn_pictures"
CACHE_VERSION = 1
"""Raised when the same files and fields give other pixels than before."""
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


def read_table(
    builder: tfds.core.DatasetBuilder, folds: Iterable[int | str]
) -> pd.DataFrame:
    """Returns what is known of each picture of some folds, a row each, without pictures.

    Columns are `TABLE_COLUMNS`, `fold`, and the `sha256` of the picture's file; `label` is
    the integer of the class. Rows stand in the order in which the folds are stored.

    Args:
        builder: A dataset that is on disk.
        folds: Numbers of folds, or the name of an official split; `fold` then holds that.
    """
    folds = list(folds)
    rows = [
        {**row, "sha256": hashlib.sha256(row.pop("image")).hexdigest()}
        for row in tfds.as_numpy(_rows(builder, folds))
    ]
    table = pd.DataFrame(rows, columns=[*TABLE_COLUMNS, "sha256"])
    for name in set(TABLE_COLUMNS) - {"label", "age"}:
        table[name] = table[name].map(bytes.decode)
    sizes = [builder.info.splits[stored_name(fold)].num_examples for fold in folds]
    return table.assign(fold=np.repeat(folds, sizes))


def read_files(builder: tfds.core.DatasetBuilder, table: pd.DataFrame) -> list[bytes]:
    """Returns the file of each row of a table, in their order; for few pictures.

    Args:
        builder: The dataset.
        table: Rows with `image_id` and the `fold` in which each picture is stored.
    """
    wanted = set(table["image_id"])
    files = {}
    for row in tfds.as_numpy(_rows(builder, sorted(table["fold"].unique()))):
        if row["image_id"].decode() in wanted:
            files[row["image_id"].decode()] = row["image"]
        if len(files) == len(wanted):
            break
    return [files[image_id] for image_id in table["image_id"]]


def load_images(
    builder: tfds.core.DatasetBuilder,
    table: pd.DataFrame,
    config: DataConfig,
    cache: Cache = "auto",
) -> Images:
    """Returns the pictures of the rows of a table, decoded and resized once.

    Args:
        builder: The dataset.
        table: Any rows of `read_table`, of any folds, in any order, each picture once.
        config: What `preprocess.read_image` uses.
        cache: Where the pictures are kept; see `cache.cached_images`. The files lie in
            skincnn_pictures, beside the built datasets.

    Returns:
        uint8 [len(table), image_size, image_size, 3], in the order of the rows.

    Raises:
        ConfigError: The file of the pictures cannot be written.
        DataError: The dataset does not hold these pictures, or is damaged.
    """
    shape = (len(table), config.image_size, config.image_size, 3)
    # The root of all datasets: `data_dir` is <root>/<name>/<config>/<version>.
    folder = Path(builder.data_dir).parents[2] / CACHE_FOLDER
    name = f"{builder.builder_config.name}-{config.image_size}px-{_key(table, config)}.npy"

    def fill(images: Images) -> None:
        _read_into(images, builder, table, config)

    return cached_images(folder / name, shape, fill, cache)


def training_batches(
    images: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    batch_size: int,
    *,
    seed: int,
    epochs: range,
    first_step: int = 0,
    variants: int = 1,
    metadata: Metadata | None = None,
    sampling_weights: npt.NDArray[np.float64] | None = None,
    epoch_counts: npt.NDArray[np.int64] | None = None,
) -> tf.data.Dataset:
    """Returns the batches of some epochs: (uint8 [batch, h, w, 3], int32 [batch]).

    In the place of pictures there may be features, [batch, num_features]. With `metadata`
    the first of the two is a dictionary of such "images" and of "metadata", float32
    [batch, num_fields], as a classifier with metadata takes it.

    Each epoch has `sampling.steps_per_epoch` of them, which `sampling.epoch_batches` of
    `seed` and the epoch's number alone determines: a range that begins later gives the
    same batches as the end of one that begins at 0.

    Args:
        images: All pictures (or features), in the order of `labels`: the variants of the
            first one after the other, then those of the second, and so on.
        labels: The class of each picture, [num_images].
        batch_size: Pictures in a batch, at most `num_images`.
        seed: The seed of the run.
        epochs: The numbers of the epochs, counted from 0 over the whole run.
        first_step: Batches of the first of them that are left out.
        variants: How many there are of each picture; each time that it is in a batch one
            of them is drawn.
        metadata: What the model is told of each picture's patient, [num_images,
            num_fields], if anything.
        sampling_weights: See `sampling.epoch_batches`.
        epoch_counts: See `sampling.epoch_batches`.
    """

    def rows_of(epoch: tf.Tensor) -> npt.NDArray[np.int64]:
        batches = epoch_batches(
            labels, batch_size, seed, int(epoch), sampling_weights, epoch_counts
        )
        rng = np.random.default_rng([seed, int(epoch), 1])
        rows = batches * variants + rng.integers(variants, size=batches.shape)
        return rows[first_step:] if epoch == epochs.start else rows

    def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        pictures = tf.py_function(lambda: shared[0], [], dtype)
        pictures = tf.ensure_shape(pictures, shape)

        def read(rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
            places = rows // variants
            patients = None if metadata is None else tf.gather(metadata, places)
            return _inputs(tf.gather(pictures, rows), patients), tf.gather(classes, places)

        rows = tf.numpy_function(rows_of, [epoch], tf.int64)
        rows = tf.ensure_shape(rows, (None, batch_size))
        # One call of Python for an epoch; the batches are gathered by TensorFlow alone.
        return tf.data.Dataset.from_tensor_slices(rows).map(
            read, num_parallel_calls=GATHERING_THREADS
        )

    # The sides are left open: the model is not traced anew for another size.
    shape = (len(labels) * variants, *[None] * (images.ndim - 2), images.shape[-1])
    dtype = tf.as_dtype(images.dtype)
    shared = [_share(images)]
    with tf.device("CPU"):  # where tf.data works; the default would be a GPU
        classes = tf.constant(labels, tf.int32)
    steps = steps_per_epoch(len(labels), batch_size, epoch_counts)
    steps = steps * len(epochs) - first_step
    batches = (
        tf.data.Dataset.range(epochs.start, epochs.stop)
        .flat_map(read_epoch)
        .apply(tf.data.experimental.assert_cardinality(steps))
        .prefetch(2)
    )
    # TensorFlow keeps Python functions for ever: they must let go of the pictures.
    weakref.finalize(batches, shared.clear)
    return batches


def evaluation_batches(
    images: npt.NDArray[Any], metadata: Metadata | None = None
) -> tf.data.Dataset:
    """Returns the inputs alone, in order, as `training_batches` has them."""
    shared = _share(images)

    def read(first: tf.Tensor) -> Any:
        rows = slice(first, first + EVALUATION_BATCH_SIZE)
        patients = None if metadata is None else tf.constant(metadata)[rows]
        return _inputs(shared[rows], patients)

    return (
        tf.data.Dataset.range(0, len(images), EVALUATION_BATCH_SIZE).map(read).prefetch(2)
    )


def fingerprint(table: pd.DataFrame) -> str:
    """Returns a SHA-256 over pictures, image_id, lesion_id, label and fold of each row.

    It does not depend on the order of the rows.
    """
    columns = ["image_id", "lesion_id", "label", "fold", "sha256"]
    rows = table[columns].sort_values("image_id")
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()


def stored_name(fold: int | str) -> str:
    """Returns the name on disk of a fold, by its number, or of an official split."""
    return fold if isinstance(fold, str) else f"fold_{fold}"


def _rows(builder: tfds.core.DatasetBuilder, folds: Iterable[int | str]) -> tf.data.Dataset:
    """Returns the records of some folds, fold after fold; pictures stay file bytes.

    Parallelism is not tuned in whatever is made of it: the tuner of tf.data often takes
    seconds to end, in which nothing happens (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    rows = builder.as_dataset(
        split="+".join(map(stored_name, folds)),
        decoders={"image": tfds.decode.SkipDecoding()},
        # One file after the other, or the folds would be mixed. TFDS would also keep
        # *decoded* pictures of a small dataset in memory.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    return rows.with_options(options)


def _key(table: pd.DataFrame, config: DataConfig) -> str:
    """Returns what tells the pixels of two tables apart: files, their order, and fields."""
    made_by = {
        "version": CACHE_VERSION,
        "tensorflow": tf.__version__,
        "preprocessing": preprocessing_fields(config),
        "sha256": table["sha256"].tolist(),
    }
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:32]


def _read_into(
    images: Images,
    builder: tfds.core.DatasetBuilder,
    table: pd.DataFrame,
    config: DataConfig,
) -> None:
    """Writes the picture of each row of `table` at its place in `images`."""
    places = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(table["image_id"].tolist()), tf.range(len(table))
        ),
        default_value=-1,
    )
    folds = sorted(table["fold"].unique())
    rows = _rows(builder, folds)
    stored = [builder.info.splits[stored_name(fold)].num_examples for fold in folds]
    if sum(stored) > len(table):
        rows = rows.filter(lambda row: places.lookup(row["image_id"]) >= 0)
    batches = (
        rows.map(
            lambda row: (places.lookup(row["image_id"]), read_image(row["image"], config)),
            num_parallel_calls=READING_THREADS,
        )
        .batch(READING_BATCH_SIZE)
        .prefetch(1)
    )
    found = 0
    with tqdm(total=len(table), desc="Reading pictures", unit="img") as progress:
        try:
            for rows, pictures in batches.as_numpy_iterator():
                images[rows] = pictures
                found += len(rows)
                progress.update(len(rows))
        except tf.errors.OpError as error:
            raise DataError(
                f"The pictures of {builder.data_dir} cannot be read: {error.message}. "
                "Delete that folder and build the dataset again."
            ) from error
    if found != len(table):
        raise DataError(
            f"{builder.data_dir} holds {found} of the {len(table)} pictures that were "
            "asked for. Expected every picture of the table, once."
        )


def _inputs(images: tf.Tensor, metadata: tf.Tensor | None) -> Any:
    """Returns what a classifier is given of some pictures."""
    return images if metadata is None else {"images": images, "metadata": metadata}


def _share(images: npt.NDArray[Any]) -> tf.Tensor:
    """Returns a tensor on the memory of `images`, which it keeps alive.

    An array whose memory TensorFlow cannot use (its kernels end the process where memory
    is not aligned) is copied.
    """
    flags = images.flags
    if not (flags.c_contiguous and flags.writeable and images.ctypes.data % ALIGNMENT == 0):
        copy = empty_array(images.shape, images.dtype)
        copy[:] = images
        images = copy
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())
