"""Input pipeline: from TFDS records to batches of images or features.

Images are decoded and resized once, into one array, from which batches are gathered.
On two shared CPU cores (4,000 images of 160x160 pixels, batch size 32, best of four runs),
a generator of batches read 13,000 images/s, `numpy_function` in a parallel map 18,000
images/s, and `tf.gather` on a tensor that shares the memory of the array more than 50,000
images/s. `tf.constant` would copy the array.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.config import DataConfig
from skincnn.data import datasets
from skincnn.data.cache import ALIGNMENT, Cache, Images, cached_images, empty_array
from skincnn.data.combined import CombinedDataset, PreparedDataset
from skincnn.data.preprocess import read_image
from skincnn.data.preprocessing_spec import preprocessing_fields
from skincnn.data.sampling import epoch_batches, steps_per_epoch
from skincnn.errors import DataError
from skincnn.progress import ProgressBar

Metadata = npt.NDArray[np.float32]
"""Encoded clinical metadata, [num_images, num_clinical_features]; the features are
`skincnn.clinical_metadata.CLINICAL_FEATURES`."""
Rows = npt.NDArray[np.int64]
EVALUATION_BATCH_SIZE = 128
READING_BATCH_SIZE = 64
READING_THREADS = 2 * (os.cpu_count() or 1)
"""Number of images that are decoded in parallel: two per core, so that no core is idle."""
GATHERING_THREADS = 2
CACHE_FOLDER = "skincnn_images"
CACHE_VERSION = 1
"""Increment this when the same files and preprocessing fields yield different pixels."""


def load_images(
    dataset: CombinedDataset,
    table: pd.DataFrame,
    config: DataConfig,
    cache: Cache = "auto",
) -> Images:
    """Returns the decoded and preprocessed images of a table.

    Args:
        dataset: The dataset, which may consist of several prepared datasets.
        table: Rows of `CombinedDataset.read_table`, from any folds and in any order,
            without duplicates.
        config: The preprocessing; see `skincnn.data.preprocess.read_image`.
        cache: Where to keep the images; see `skincnn.data.cache.cached_images`. Cache files
            are in the directory skincnn_images beside the built datasets.

    Returns:
        uint8 [len(table), image_size, image_size, 3], in the order of the rows.

    Raises:
        ConfigError: `cache` is not valid, or the cache file cannot be written.
        DataError: The dataset lacks some of the images, or is damaged.
    """
    shape = (len(table), config.image_size, config.image_size, 3)
    name = f"{dataset.name[:100]}-{config.image_size}px-{_key(table, config)}.npy"

    def fill(images: Images) -> None:
        with ProgressBar(total=len(table), desc="Reading images", unit="img") as progress:
            for part, positions in dataset.locate(table):
                _read_into(images, part, table.iloc[positions], positions, config, progress)

    return cached_images(dataset.root / CACHE_FOLDER / name, shape, fill, cache)


def training_batches(
    images: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    batch_size: int,
    *,
    seed: int,
    epochs: range,
    first_step: int = 0,
    variants: int = 1,
    targets: npt.NDArray[np.float32] | None = None,
    metadata: Metadata | None = None,
    sampling_weights: npt.NDArray[np.float64] | None = None,
    epoch_counts: npt.NDArray[np.int64] | None = None,
) -> tf.data.Dataset:
    """Returns the batches of some epochs: (inputs, int32 labels [batch_size]).

    With `targets`, each batch contains rows of `targets`, float32 [batch_size,
    num_targets], instead of labels.

    Inputs are uint8 images [batch_size, height, width, 3] or features [batch_size,
    num_features]. With `metadata`, inputs are a dict with the keys "images" (images or
    features) and "metadata" (float32 [batch_size, num_clinical_features]).

    The batches of an epoch do not depend on earlier epochs, so a resumed run sees the
    batches that an uninterrupted run would have seen.

    Args:
        images: Images or features [num_images * variants, ...]. The variants of one image
            are adjacent.
        labels: The class of each image, [num_images].
        batch_size: Number of images in a batch, at most the number of images in an epoch.
        seed: The seed of the run.
        epochs: The epoch numbers, counted from 0 over the whole run.
        first_step: The number of batches to skip in the first of these epochs.
        variants: The number of variants of each image. One of them is drawn each time the
            image occurs in a batch.
        targets: What the model is trained to predict instead of the labels, [num_images,
            num_targets]; None for the labels.
        metadata: Encoded clinical metadata, [num_images, num_clinical_features].
        sampling_weights: See `skincnn.data.sampling.epoch_batches`.
        epoch_counts: See `skincnn.data.sampling.epoch_batches`.
    """

    def select_rows(epoch: npt.NDArray[np.int64]) -> Rows:
        indices = epoch_batches(
            labels, batch_size, seed, int(epoch), sampling_weights, epoch_counts
        )
        rng = np.random.default_rng([seed, int(epoch), 1])
        rows = indices * variants + rng.integers(variants, size=indices.shape)
        return rows[first_step:] if epoch == epochs.start else rows

    batches = _gather_batches(
        images,
        labels.astype(np.int32) if targets is None else targets,
        metadata,
        select_rows,
        epochs,
        batch_size,
        variants,
    )
    steps = steps_per_epoch(len(labels), batch_size, epoch_counts)
    count = tf.data.experimental.assert_cardinality(steps * len(epochs) - first_step)
    return batches.apply(count).prefetch(2)


def evaluation_batches(
    images: npt.NDArray[Any], metadata: Metadata | None = None
) -> tf.data.Dataset:
    """Returns batches of all images or features in order, without labels.

    A batch has `EVALUATION_BATCH_SIZE` images, the last one possibly fewer, in the format
    of the inputs of `training_batches`.
    """
    shared = share(images)

    def read(first: tf.Tensor) -> Any:
        rows = slice(first, first + EVALUATION_BATCH_SIZE)
        encoded = None if metadata is None else tf.constant(metadata)[rows]
        return _inputs(shared[rows], encoded)

    starts = tf.data.Dataset.range(0, len(images), EVALUATION_BATCH_SIZE)
    return starts.map(read).prefetch(2)


def fingerprint(table: pd.DataFrame) -> str:
    """Returns a SHA-256 over the image, image_id, lesion_id, label and fold of all rows.

    The result does not depend on the order of the rows.
    """
    rows = table[["image_id", "lesion_id", "label", "fold", "sha256"]]
    rows = rows.sort_values("image_id")
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()


def _key(table: pd.DataFrame, config: DataConfig) -> str:
    """Returns a hash of everything that determines the pixels and the image order."""
    content = {
        "version": CACHE_VERSION,
        "tensorflow": tf.__version__,
        "preprocessing": preprocessing_fields(config),
        "sha256": table["sha256"].tolist(),
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _read_into(
    images: Images,
    part: PreparedDataset,
    table: pd.DataFrame,
    positions: npt.NDArray[np.int64],
    config: DataConfig,
    progress: ProgressBar,
) -> None:
    """Reads and preprocesses the images of `table` into the `positions` of `images`."""
    image_ids = table["image_id"].str.removeprefix(part.prefix).tolist()
    position_of = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(image_ids), tf.constant(positions)),
        default_value=-1,
    )

    def is_needed(record: dict[str, tf.Tensor]) -> tf.Tensor:
        return position_of.lookup(record["image_id"]) >= 0

    def read(record: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = read_image(record["image"], config)
        return position_of.lookup(record["image_id"]), image

    splits = sorted(table[datasets.STORED_IN].unique())
    records = datasets.read_records(part.builder, splits).filter(is_needed)
    decoded = records.map(read, num_parallel_calls=READING_THREADS)
    batches = decoded.batch(READING_BATCH_SIZE).prefetch(1)
    num_read = 0
    with datasets.explain_read_errors(part.builder):
        for rows, batch in batches.as_numpy_iterator():
            images[rows] = batch
            num_read += len(rows)
            progress.update(len(rows))
    if num_read != len(table):
        raise DataError(
            f"{part.builder.data_dir} contains {num_read} of the {len(table)} required "
            "images. Delete that directory and build the dataset again."
        )


def _gather_batches(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    metadata: Metadata | None,
    select_rows: Callable[[npt.NDArray[np.int64]], Rows],
    epochs: range,
    batch_size: int,
    variants: int,
) -> tf.data.Dataset:
    # Height and width are unspecified, so that another image size requires no retracing.
    shape = (len(labels) * variants, *[None] * (images.ndim - 2), images.shape[-1])
    dtype = tf.as_dtype(images.dtype)
    shared = [share(images)]
    with tf.device("CPU"):  # where tf.data runs; by default constants are on the GPU
        targets = tf.constant(labels)

    def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        source = tf.ensure_shape(tf.py_function(lambda: shared[0], [], dtype), shape)

        def read(rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
            indices = rows // variants
            encoded = None if metadata is None else tf.gather(metadata, indices)
            inputs = _inputs(tf.gather(source, rows), encoded)
            return inputs, tf.gather(targets, indices)

        # Python is called once per epoch; only TensorFlow gathers the batches.
        rows = tf.numpy_function(select_rows, [epoch], tf.int64)
        rows = tf.ensure_shape(rows, (None, batch_size))
        return tf.data.Dataset.from_tensor_slices(rows).map(
            read, num_parallel_calls=GATHERING_THREADS
        )

    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(read_epoch)
    # TensorFlow never deletes Python functions; clear their reference to the images.
    weakref.finalize(batches, shared.clear)
    return batches


def _inputs(images: tf.Tensor, metadata: tf.Tensor | None) -> Any:
    return images if metadata is None else {"images": images, "metadata": metadata}


def share(images: npt.NDArray[Any]) -> tf.Tensor:
    """Returns a tensor that shares the memory of `images` and keeps it alive.

    An array that cannot be shared is copied: TensorFlow kernels crash on unaligned memory.
    """
    flags = images.flags
    if not (flags.c_contiguous and flags.writeable and images.ctypes.data % ALIGNMENT == 0):
        copy = empty_array(images.shape, images.dtype)
        copy[:] = images
        images = copy
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())
