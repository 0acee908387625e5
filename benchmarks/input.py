"""Benchmarks of the input pipeline: speed relative to simple baselines, and memory."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import io
import multiprocessing
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from benchmarks.images import (
    ARCHIVES,
    PillowDataset,
    random_images,
    write_class_folders,
    write_published_layout,
)
from benchmarks.measure import Result, Work, compare, peak_of
from skincnn.classes import HAM10000
from skincnn.config import DataConfig, ModelConfig
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Images
from skincnn.data.combined import CombinedDataset, open_datasets
from skincnn.model.classifier import build_classifier

CONFIG = DataConfig(datasets=("isic2018",), image_size=160)
FOLDS = range(10)
LATER_EPOCHS = 5
FIT_STEPS = 8
FIT_MODEL = ModelConfig(backbone="mobilenet_v2", weights="none")
MEMORY_CONFIG = DataConfig(datasets=("isic2018",), image_size=384, batch_size=8)
MEMORY_MODEL = ModelConfig(backbone="mobilenet", width_multiplier=0.25, weights="none")
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """The same images as JPEG files, as a built dataset, and in directories.

    `root` contains manual/ (the published layout), classes/ (one directory per class) and
    data/ (the built dataset).
    """

    files: list[bytes]  # the JPEG files
    root: Path
    dataset: CombinedDataset
    table: pd.DataFrame  # all folds, from `CombinedDataset.read_table`


def prepare(files: list[bytes], root: Path) -> Setting:
    """Writes the images in all layouts and builds the dataset."""
    write_published_layout(files, root / "manual")
    write_class_folders(files, root / "classes")
    _build(root / "data", root / "manual")
    dataset = open_datasets(["isic2018"], root / "data")
    return Setting(files, root, dataset, dataset.read_table(FOLDS))


def first_pass(setting: Setting) -> Iterator[Result]:
    """Compares the first pass over the images with decoding and resizing alone."""
    contents = tf.data.Dataset.from_tensor_slices(setting.files)

    def decode_and_resize() -> int:
        dataset = contents.map(
            lambda content: tf.image.resize(
                tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
                (CONFIG.image_size,) * 2,
                antialias=True,
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return int(dataset.reduce(0, lambda count, _: count + 1))

    yield compare(
        "first pass / decoding and resizing alone",
        lambda: len(_load(setting)),
        decode_and_resize,
        at_least=0.9,
    )


def later_epochs(setting: Setting) -> Iterator[Result]:
    """Compares later epochs with the first epoch, which decodes the images."""
    first, later = _epochs(setting)
    yield compare("later epochs / first epoch", later, first, at_least=20)


def fitting(setting: Setting) -> Iterator[Result]:
    """Compares training from the pipeline with training on one constant batch."""
    model = build_classifier(FIT_MODEL, len(HAM10000), fused=True)
    _compile(model)
    images = _load(setting)
    constant = _constant(CONFIG)

    def fit(batches: tf.data.Dataset) -> int:
        model.fit(batches, steps_per_epoch=FIT_STEPS, shuffle=False, verbose=0)
        return FIT_STEPS * CONFIG.batch_size

    yield compare(
        f"fit / fit on a constant batch ({FIT_MODEL.backbone}, {CONFIG.image_size} px)",
        lambda: fit(_batches(setting, images, range(1)).repeat()),
        lambda: fit(constant),
        at_least=0.95,
    )


def building(setting: Setting) -> Iterator[Result]:
    """Compares building the dataset with decoding its files; measures the peak memory."""
    target = setting.root / "built again"

    def build() -> int:
        shutil.rmtree(target, ignore_errors=True)
        _build(target, setting.root / "manual")
        return len(setting.files)

    def decode() -> int:
        count = 0
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for name in ARCHIVES:
                with zipfile.ZipFile(setting.root / "manual" / name) as archive:
                    files = (archive.read(member) for member in archive.namelist())
                    count += sum(pool.map(_decode_with_pillow, files))
        return count

    yield compare(
        "build / decoding every file with Pillow, all cores", build, decode, at_least=0.5
    )
    shutil.rmtree(target)
    peak = peak_of(_build, target, setting.root / "manual")
    yield Result("build: peak memory beyond imports", peak / MIB, "MiB", at_most=600)


def training_memory(setting: Setting) -> Iterator[Result]:
    """Compares the peak memory of training with the memory of the images and the model."""
    images = len(setting.files) * MEMORY_CONFIG.image_size**2 * 3
    model = peak_of(_train, setting.root / "data", False)
    both = peak_of(_train, setting.root / "data", True)
    yield Result(
        f"training: peak memory / (images {images / MIB:.0f} MiB + model "
        f"{model / MIB:.0f} MiB)",
        both / (images + model),
        at_most=1.5,
    )


def keras_directory(setting: Setting) -> Iterator[Result]:
    """Compares epochs of the pipeline with those of `image_dataset_from_directory`.

    That function does not cache, and would resize without antialiasing. The images are
    therefore loaded at the size of the first one, and then resized with antialiasing.
    """
    height, width = tf.io.decode_image(setting.files[0]).shape[:2]
    side = CONFIG.image_size
    dataset = keras.utils.image_dataset_from_directory(
        setting.root / "classes",
        image_size=(height, width),
        batch_size=CONFIG.batch_size,
        seed=0,
        verbose=False,
    )

    def resize(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.image.resize(images, (side, side), antialias=True), labels

    resized = dataset.map(resize, num_parallel_calls=tf.data.AUTOTUNE)
    yield from _compare_epochs(
        setting, "image_dataset_from_directory", lambda: _read(resized)
    )


def torch_loader(setting: Setting) -> Iterator[Result]:
    """Compares epochs of the pipeline with those of a PyTorch DataLoader, if installed."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: the comparison with its DataLoader is skipped.")
        return
    import torch

    paths = sorted((setting.root / "classes").rglob("*.jpg"))
    loader = torch.utils.data.DataLoader(
        PillowDataset(paths, CONFIG.image_size),
        batch_size=CONFIG.batch_size,
        shuffle=True,
        num_workers=multiprocessing.cpu_count(),
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    yield from _compare_epochs(
        setting, "PyTorch DataLoader", lambda: sum(len(batch) for batch in loader)
    )


BENCHMARKS: dict[str, Callable[[Setting], Iterator[Result]]] = {
    "first_pass": first_pass,
    "later_epochs": later_epochs,
    "fitting": fitting,
    "building": building,
    "training_memory": training_memory,
    "keras_directory": keras_directory,
    "torch_loader": torch_loader,
}


def _compare_epochs(setting: Setting, name: str, epoch: Work) -> Iterator[Result]:
    first, later = _epochs(setting)
    yield compare(f"first epoch / epoch of {name}", first, epoch)
    yield compare(f"later epochs / epoch of {name}", later, epoch)


def _epochs(setting: Setting) -> tuple[Work, Work]:
    """Returns functions that read the first epoch, including decoding, and later epochs."""
    images = _load(setting)
    later = range(1, 1 + LATER_EPOCHS)
    return (
        lambda: _read(_batches(setting, _load(setting), range(1))),
        lambda: _read(_batches(setting, images, later)),
    )


def _load(setting: Setting) -> Images:
    return pipeline.load_images(setting.dataset, setting.table, CONFIG, "memory")


def _batches(setting: Setting, images: Images, epochs: range) -> tf.data.Dataset:
    labels = setting.table["label"].to_numpy(np.int64)
    return pipeline.training_batches(
        images, labels, CONFIG.batch_size, seed=0, epochs=epochs
    )


def _read(batches: tf.data.Dataset) -> int:
    return sum(len(labels) for _, labels in batches)


def _constant(config: DataConfig) -> tf.data.Dataset:
    images = random_images(config.batch_size, config.image_size)
    labels = np.arange(config.batch_size, dtype=np.int32) % len(HAM10000)
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


def _compile(model: keras.Model) -> None:
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def _decode_with_pillow(content: bytes) -> int:
    Image.open(io.BytesIO(content)).convert("RGB")
    return 1


def _build(data_dir: Path, manual_dir: Path) -> None:
    # TFDS prints the directory of each build.
    with contextlib.redirect_stdout(io.StringIO()):
        datasets.prepare_dataset("isic2018", data_dir, manual_dir)


def _train(data_dir: Path, all_images: bool) -> None:
    """Trains for two epochs on all images, or for the same number of steps on one batch."""
    dataset = open_datasets(["isic2018"], data_dir)
    table = dataset.read_table(FOLDS)
    batches = _constant(MEMORY_CONFIG)
    if all_images:
        images = pipeline.load_images(dataset, table, MEMORY_CONFIG, "memory")
        labels = table["label"].to_numpy(np.int64)
        batches = pipeline.training_batches(
            images, labels, MEMORY_CONFIG.batch_size, seed=0, epochs=range(2)
        )
    model = build_classifier(MEMORY_MODEL, len(HAM10000), fused=True)
    _compile(model)
    steps = len(table) // MEMORY_CONFIG.batch_size
    model.fit(batches, steps_per_epoch=steps, epochs=2, shuffle=False, verbose=0)
