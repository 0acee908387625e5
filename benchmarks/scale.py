"""Benchmarks of a dataset with many images: time and peak memory of each step.

Records, features and predictions are synthetic, with the size of ISIC 2024: two classes,
one malignant image in a thousand, and images of 133x133 pixels. The features are those of
noise images, recombined; one image in a hundred is a near-duplicate of the previous image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.measure import Result, in_new_process, peak_memory
from skincnn.config import EvaluateConfig
from skincnn.data import leakage
from skincnn.evaluation.results import InferenceCost
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from tfds_ham10000.folds import split_into_folds
from tfds_ham10000.near_duplicates import (
    FeatureFile,
    ImageFeatures,
    extract_features,
    find_near_duplicates,
)
from tfds_ham10000.records import Record

CLASSES = ("benign", "malignant")
IMAGE_SIZE = 133
SAMPLE = 2000
"""Maximum number of images whose features are extracted."""
DUPLICATES = 100
"""One in this number of images is a near-duplicate of the previous image."""
NUM_ORIGINALS = 500
"""Number of images whose features are recombined."""
MAX_MINUTES = 15.0
MAX_GB = 6.0


@dataclass(frozen=True)
class Setting:
    """The size of the dataset, and a directory for temporary files."""

    num_images: int
    num_resamples: int
    folder: Path


def extraction(setting: Setting) -> Iterator[Result]:
    """Measures the extraction of features for the search for near-duplicates."""
    num_sample = min(SAMPLE, setting.num_images)
    seconds = in_new_process(_extract, setting.num_images, num_sample)
    minutes = seconds / 60 * setting.num_images / num_sample
    yield Result(
        f"features of images of {IMAGE_SIZE} px (from {num_sample})",
        minutes,
        "min",
        at_most=MAX_MINUTES,
    )


def near_duplicates(setting: Setting) -> Iterator[Result]:
    """Measures the search for near-duplicates, and the share that it finds."""
    minutes, memory, found = in_new_process(_search, setting)
    yield from _limits("search for near-duplicates", minutes, memory)
    yield Result("search for near-duplicates: share found", found, at_least=0.99)


def folds(setting: Setting) -> Iterator[Result]:
    """Measures the assignment of groups to folds."""
    yield from _limits("folds", *in_new_process(_timed, _assign, setting))


def audit(setting: Setting) -> Iterator[Result]:
    """Measures the leakage audit of training, validation and test."""
    yield from _limits("leakage audit", *in_new_process(_timed, _audit, setting))


def evaluation(setting: Setting) -> Iterator[Result]:
    """Measures the computation of scores and intervals from predictions of all images."""
    name = f"evaluation, {setting.num_resamples} resamples"
    yield from _limits(name, *in_new_process(_timed, _evaluate, setting))


BENCHMARKS = {
    "extraction": extraction,
    "near_duplicates": near_duplicates,
    "folds": folds,
    "audit": audit,
    "evaluation": evaluation,
}


def _limits(name: str, minutes: float, memory: float) -> Iterator[Result]:
    yield Result(f"{name}: time", minutes, "min", at_most=MAX_MINUTES)
    yield Result(f"{name}: peak memory", memory, "GB", at_most=MAX_GB)


def _timed(
    prepare: Callable[[Setting], Callable[[], object]], setting: Setting
) -> tuple[float, float]:
    """Returns the minutes of the function that `prepare` returns, and the peak in GB."""
    work = prepare(setting)
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / 60, peak_memory() / 1e9


def _extract(num_images: int, num_sample: int) -> float:
    """Returns the seconds in which the features of a sample are extracted."""
    images = [_image(number) for number in range(num_sample)]
    extract = partial(extract_features, num_images=num_images)
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(extract, images):
            pass
    return time.perf_counter() - started


def _image(number: int) -> Image.Image:
    """Returns a noise image."""
    noise = np.random.default_rng(number).integers(0, 256, (45, 45, 3), np.uint8)
    return Image.fromarray(noise).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def _search(setting: Setting) -> tuple[float, float, float]:
    """Returns the minutes, the peak memory in GB, and the share of duplicates found."""
    features = FeatureFile(setting.folder)
    for number, of_image in enumerate(_make_features(setting.num_images)):
        features.add(_image_id(number), of_image)
    started = time.perf_counter()
    found = {(pair.first, pair.second) for pair in find_near_duplicates(features)}
    minutes = (time.perf_counter() - started) / 60
    share = np.mean([pair in found for pair in _duplicates(setting.num_images)])
    return minutes, peak_memory() / 1e9, float(share)


def _make_features(num_images: int) -> Iterator[ImageFeatures]:
    """Yields the features of images; pairs in `_duplicates` differ only by noise."""
    rng = np.random.default_rng(0)
    originals = [extract_features(_image(n), num_images) for n in range(NUM_ORIGINALS)]
    hashes = np.stack([of_image.hashes for of_image in originals]).view(np.uint16)
    points, descriptors, strengths = (
        np.concatenate([getattr(of_image, name) for of_image in originals])
        for name in ("points", "descriptors", "strengths")
    )
    columns = np.arange(hashes.shape[2])
    for number in range(num_images):
        if number % DUPLICATES != 1:
            rows = rng.integers(len(points), size=len(originals[0].points))
            mixed = hashes[rng.integers(NUM_ORIGINALS, size=len(columns)), :, columns].T
            latest = ImageFeatures(
                np.ascontiguousarray(mixed).view(np.uint8),
                *(part[rows] for part in (points, descriptors, strengths)),
            )
        yield _altered(latest, rng)


def _altered(features: ImageFeatures, rng: np.random.Generator) -> ImageFeatures:
    """Returns the features with noise."""
    noise = rng.integers(-10, 11, features.descriptors.shape)
    return ImageFeatures(
        features.hashes,
        features.points + rng.normal(0, 0.5, features.points.shape).astype(np.float32),
        np.clip(features.descriptors + noise, 0, 255).astype(np.uint8),
        features.strengths,
    )


def _assign(setting: Setting) -> Callable[[], object]:
    count = setting.num_images
    lesions = [number % (count * 9 // 10) for number in range(count)]
    records = [
        Record(_image_id(number), f"IL_{lesion:07d}", CLASSES[lesion % 1000 == 0])
        for number, lesion in enumerate(lesions)
    ]
    return lambda: split_into_folds({"train": records}, _duplicates(count))


def _audit(setting: Setting) -> Callable[[], object]:
    table = _table(setting.num_images, seed=0)
    table["label"] = (table["label"] == CLASSES[1]).astype(int)
    table["sha256"] = table["image_id"]
    folds = np.arange(len(table)) % 10
    splits = {
        name: table[part]
        for name, part in (("train", folds < 8), ("val", folds == 8), ("test", folds == 9))
    }
    inputs = ("age", "sex", "localization")
    return lambda: leakage.audit(splits, CLASSES, inputs=inputs)


def _evaluate(setting: Setting) -> Callable[[], object]:
    tables = {
        "val": _table(setting.num_images // 10, seed=1),
        "test": _table(setting.num_images, seed=2),
    }
    cost = InferenceCost(num_views=1, seconds_per_image=0.0)
    config = EvaluateConfig(num_bootstrap=setting.num_resamples)
    stored_in = dict.fromkeys(tables, "synthetic")
    variants = [InferenceVariant("", tables, cost)]
    return lambda: score_variants(variants, stored_in, {}, config, max_distance=0.9)


def _table(num_images: int, seed: int) -> pd.DataFrame:
    """Returns a predictions table."""
    rng = np.random.default_rng(seed)
    malignant = rng.permutation(num_images) < max(20, num_images // 1000)
    probability = 1 / (1 + np.exp(6 - rng.normal(2.5 * malignant)))
    lesions = np.char.mod("IL_%07d", np.arange(num_images))
    columns: dict[str, Any] = {
        "image_id": np.char.mod("ISIC_%07d", np.arange(num_images)),
        "lesion_id": lesions,
        "group_id": lesions,
        "label": np.where(malignant, *reversed(CLASSES)),
        "age": rng.integers(1, 18, num_images) * 5.0,
        "sex": rng.choice(["female", "male"], num_images),
        "localization": rng.choice(["head/neck", "trunk", "upper extremity"], num_images),
        "probability_benign": 1 - probability,
        "probability_malignant": probability,
        "energy": np.zeros(num_images),
        "distance": rng.random(num_images),
    }
    return pd.DataFrame(columns)


def _duplicates(num_images: int) -> list[tuple[str, str]]:
    """Returns the pairs of near-duplicates."""
    second = range(1, num_images, DUPLICATES)
    return [(_image_id(number - 1), _image_id(number)) for number in second]


def _image_id(number: int) -> str:
    return f"ISIC_{number:07d}"
