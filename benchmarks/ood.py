"""Comparison of methods of out-of-distribution (OOD) detection on unsuitable images.

The limit of each method accepts 95 % of the validation images of a run. The unsuitable
images are photographs, faces, textures, documents, histology and retina images, generated
images, altered test images, and skin without a lesion (corners of test images).
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.ndimage
from PIL import Image

from skincnn.data.combined import open_datasets
from skincnn.data.pipeline import evaluation_batches
from skincnn.data.preprocess import preprocess
from skincnn.errors import ConfigError
from skincnn.evaluation.splits import LoadedRun, load_run
from skincnn.inference.ood import ACCEPTED, fit_gaussian
from skincnn.inference.ood_images import GENERATED, RUINED
from skincnn.inference.predict import predict
from skincnn.metrics.sample import Floats

ImageArray = npt.NDArray[np.uint8]

IMAGES_PER_SET = 150
MAX_REFERENCES, NUM_NEIGHBORS = 512, 10
SCIKIT_IMAGE = {
    "photographs of scikit-image": "astronaut chelsea coffee rocket hubble_deep_field",
    "gray textures, objects": "brick camera coins grass gravel moon clock cell",
    "scanned text": "text page",
    "histology": "immunohistochemistry",
    "retina": "retina",
}
"""Images of `skimage.data`. From each set, `IMAGES_PER_SET` squares are cropped."""
TEST = "test images (should be accepted)"


def compare(workdir: Path, data_dir: Path | None) -> pd.DataFrame:
    """Returns the share of images above the limit, by set (rows) and method (columns).

    The first column is the number of images in each set. The model in `workdir` must use
    images only.

    Raises:
        ConfigError: scikit-image is not installed; see also `load_run`.
        DataError: See `load_run`.
    """
    run = load_run(workdir, data_dir, "auto", ())
    sets = {TEST: np.asarray(run.splits["test"].images[:])} | unsuitable_images(
        run, data_dir
    )
    _, *validation = predict(run.feature_model, run.splits["val"].batches())
    images = np.concatenate(list(sets.values()))
    _, *features = predict(run.feature_model, evaluation_batches(images, None))
    groups = run.splits["val"].table["group_id"].tolist()
    names = np.repeat(list(sets), [len(images) for images in sets.values()])
    columns = {"number": np.ones(len(names))}
    for method, distances in all_distances(validation, groups, features).items():
        limit = np.quantile(distances[: len(groups)], ACCEPTED)
        columns[method] = (distances[len(groups) :] > limit).astype(float)
    table = pd.DataFrame(columns).groupby(names, sort=False)
    return table.mean().assign(number=table["number"].sum())


def to_markdown(shares: pd.DataFrame) -> str:
    """Returns the table of a run, and the means over the sets of unsuitable images."""
    mean = shares.drop(index=TEST).mean().rename("mean of the sets")
    lines = [
        f"| images | {' | '.join(shares.columns)} |",
        "|---" * (len(shares.columns) + 1) + "|",
    ]
    for name, row in pd.concat([shares, mean.to_frame().T]).iterrows():
        number, *rest = row
        cells = [f"{number:.0f}", *(f"{share:.1%}".replace("%", " %") for share in rest)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def all_distances(
    validation: Sequence[Floats], groups: Sequence[str], others: Sequence[Floats]
) -> dict[str, Floats]:
    """Returns the distances of the validation images, and then of others, by method."""
    near, gauss = [], []
    for one, other in zip(validation, others, strict=True):
        near.append(nearest(one, groups, other))
        block, own = fit_gaussian([one], groups)
        gauss.append(np.concatenate([own, block.distances([other])]))
    return {
        "nearest: last block": near[-1],
        "nearest: all": largest(near, len(groups)),
        "Mahalanobis: last block": gauss[-1],
        "Mahalanobis: all": largest(gauss, len(groups)),
        "Mahalanobis: inner": largest(gauss[:-1] or gauss, len(groups)),
        "inner and nearest: last": largest([*gauss[:-1], near[-1]], len(groups)),
    }


def nearest(validation: Floats, groups: Sequence[str], others: Floats) -> Floats:
    """Returns the nearest-neighbor distances, in the order of `all_distances`.

    The distance is 1 minus the cosine similarity to the k-th nearest of at most
    `MAX_REFERENCES` validation images of other groups, k = `NUM_NEIGHBORS`.

    References:
        Sun, Ming, Zhu, Li: Out-of-Distribution Detection with Deep Nearest Neighbors
        (2022), arXiv:2204.06507.
    """
    order = np.random.default_rng(0).permutation(len(validation))[:MAX_REFERENCES]
    images = np.concatenate([validation, others])
    unit = images / np.maximum(np.linalg.norm(images, axis=1, keepdims=True), 1e-12)
    similarities = unit @ unit[order].T
    ids = np.asarray(groups)
    similarities[: len(ids)][ids[:, None] == ids[order]] = -1
    return np.asarray(1 - np.sort(similarities, axis=1)[:, -NUM_NEIGHBORS])


def largest(distances: Sequence[Floats], num_validation: int) -> Floats:
    """Returns the largest distance of each image, after division by a quantile.

    Each array of distances is divided by its quantile `ACCEPTED` over the validation
    images, which are the first `num_validation`.
    """
    limits = [np.quantile(one[:num_validation], ACCEPTED) for one in distances]
    ratios = [one / limit for one, limit in zip(distances, limits, strict=True)]
    return np.asarray(np.max(ratios, axis=0))


def unsuitable_images(run: LoadedRun, data_dir: Path | None) -> dict[str, ImageArray]:
    """Returns the preprocessed images of each set, uint8 [num_images, size, size, 3].

    Raises:
        ConfigError: See `scikit_image_crops` and `open_datasets`.
        DataError: See `open_datasets`.
    """
    rng, data, test = np.random.default_rng(0), run.config.data, run.splits["test"]
    sets: dict[str, Iterable[ImageArray]] = dict(scikit_image_crops(rng))
    sets |= {name: make(rng) for name, make in GENERATED.items()}
    dataset = open_datasets(data.datasets, data_dir, data.label_maps)
    rows = np.sort(rng.permutation(len(test.table))[: 3 * IMAGES_PER_SET])
    files = dataset.read_files(test.table.iloc[rows])
    sets["skin without a lesion"] = skin_corners(files)[:IMAGES_PER_SET]
    prepared = {
        name: np.stack([np.asarray(preprocess(image, data)) for image in images])
        for name, images in sets.items()
    }
    originals = np.asarray(test.images)[rows[::3]]
    altered = {**RUINED, **ALTERED}
    return prepared | {
        name: np.stack([change(image) for image in originals])
        for name, change in altered.items()
    }


def scikit_image_crops(rng: np.random.Generator) -> dict[str, list[ImageArray]]:
    """Returns square crops of the images of scikit-image, and its faces, by set.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise ConfigError(
            "This benchmark requires scikit-image, which is not installed. Install it: pip "
            "install scikit-image"
        )
    data: Any = importlib.import_module("skimage.data")
    sources = {
        name: [getattr(data, one)() for one in names.split()]
        for name, names in SCIKIT_IMAGE.items()
    }
    sets = {
        name: [crop(images[n % len(images)], rng) for n in range(IMAGES_PER_SET)]
        for name, images in sources.items()
    }
    faces = data.lfw_subset()[:100]  # the others are not faces
    return sets | {"gray faces": [crop(image, rng, smallest=0.9) for image in faces]}


def crop(
    image: npt.NDArray[Any], rng: np.random.Generator, smallest: float = 0.4
) -> ImageArray:
    """Returns a random square whose side is at least `smallest` times the shorter side."""
    pixels = np.asarray(image if image.dtype == np.uint8 else 255 * image).astype(np.uint8)
    color = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
    shorter = min(color.shape[:2])
    side = int(rng.integers(int(smallest * shorter), shorter + 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in color.shape[:2])
    return color[top : top + side, left : left + side]


def skin_corners(files: Sequence[bytes]) -> list[ImageArray]:
    """Returns, for each file with a corner of skin, its most uniform corner.

    A corner is a square whose side is 30 % of the shorter side of the image. A corner that
    is bright and has little contrast is assumed to show only skin, and no black border.
    """
    chosen = []
    for content in files:
        image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        side = round(0.3 * min(image.shape[:2]))
        ends = slice(None, side), slice(-side, None)
        corners = [image[rows, columns] for rows in ends for columns in ends]
        corner = min(corners, key=lambda square: float(square.std(axis=(0, 1)).mean()))
        if corner.mean() > 110 and corner.std(axis=(0, 1)).mean() < 14:
            chosen.append(corner)
    return chosen


def exchanged(image: ImageArray) -> ImageArray:
    """Exchanges red and blue."""
    return image[..., ::-1]


def shuffled(image: ImageArray) -> ImageArray:
    """Shuffles 16 tiles."""
    rng = np.random.default_rng(0)
    rows = [np.array_split(row, 4, axis=1) for row in np.array_split(image, 4)]
    order = rng.permutation(16)
    tiles = [rows[n // 4][n % 4] for n in order]
    height, width = (length // 4 for length in image.shape[:2])
    tiles = [tile[:height, :width] for tile in tiles]
    return np.concatenate([np.concatenate(tiles[n : n + 4], axis=1) for n in (0, 4, 8, 12)])


def noisy(image: ImageArray) -> ImageArray:
    """Adds noise with a standard deviation of 60."""
    noise = np.random.default_rng(int(image.sum())).normal(0, 60, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def blurred(image: ImageArray) -> ImageArray:
    """Blurs the image with a standard deviation of 3 % of its side."""
    sigma = 0.03 * len(image)
    blurry = scipy.ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
    return blurry.round().astype(np.uint8)


def other_hue(image: ImageArray) -> ImageArray:
    """Rotates the hue by 100/256 of the circle."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += 100
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def two_levels(image: ImageArray) -> ImageArray:
    """Reduces each color to two levels."""
    return np.where(image > 127, 255, 0).astype(np.uint8)


ALTERED: dict[str, Callable[[ImageArray], ImageArray]] = {
    "red and blue exchanged": exchanged,
    "other hue": other_hue,
    "16 tiles shuffled": shuffled,
    "strong noise": noisy,
    "strong blur": blurred,
    "two levels per color": two_levels,
}
"""Alterations of test images that the built-in sets (`RUINED`) do not contain."""
