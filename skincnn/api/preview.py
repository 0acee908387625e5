"""A figure of images with augmented copies."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from skincnn.config import AugmentConfig, Config
from skincnn.data.combined import open_datasets
from skincnn.data.preprocess import read_image
from skincnn.errors import DataError
from skincnn.model.augment import Augmentation
from skincnn.model.mixing import Mixing


def plot_preview(config: Config, data_dir: Path | None = None) -> Figure:
    """Returns a figure with augmented copies of an image of each class.

    The images are from the first of `data.train_folds` that has images; a class without
    images in this fold is not shown.

    Raises:
        ConfigError, DataError, OSError: See `skincnn.api.data.show_batch`.
    """
    dataset = open_datasets(config.data.datasets, data_dir, config.data.label_maps)
    names = dataset.class_names
    # One fold usually contains all classes; reading all folds would take minutes.
    tables = (dataset.read_table([fold]) for fold in config.data.train_folds)
    table = next((table for table in tables if len(table)), None)
    if table is None:
        raise DataError(
            f"The folds {config.data.train_folds} of {dataset.full_name} have no images. "
            "Use other --data.train-folds."
        )
    table = table.sample(frac=1, random_state=config.seed).groupby("label").head(1)
    table = table.sort_values("label")
    contents = dataset.read_files(table)
    images = np.stack(
        [np.asarray(read_image(content, config.data)) for content in contents]
    )
    labels = [names[label] for label in table["label"]]
    figure = plot_augmented(images, labels, config.augment, config.seed)
    figure.suptitle(f"{dataset.name}, {_describe(config.augment)}", fontsize=10)
    return figure


def plot_augmented(
    images: npt.NDArray[np.uint8],
    labels: Sequence[str],
    config: AugmentConfig,
    seed: int = 0,
    num_copies: int = 7,
) -> Figure:
    """Returns a figure with one row per image: the original, then `num_copies` copies.

    The copies are augmented and, if `config.mix` is set, mixed as in training; the captions
    of mixed images show the share of each class. `images` are [num_images, height, width,
    3] in 0..255, and `labels` their class names.

    Raises:
        ConfigError: A part of the augmentation is not valid or fails.
    """
    batch = np.tile(images, (num_copies, 1, 1, 1))
    augmented = Augmentation(config, seed)(batch, training=True)
    mixed, partner, share = map(np.asarray, Mixing(config, seed)(augmented, training=True))
    figure = Figure(figsize=(1.35 * (num_copies + 1), 1.55 * len(images) + 0.5))
    figure.set_layout_engine("compressed")
    grid = figure.subplots(len(images), num_copies + 1, squeeze=False)
    for row, (label, axes) in enumerate(zip(labels, grid, strict=True)):
        _show(axes[0], images[row], f"{label}, original")
        for copy, axis in enumerate(axes[1:]):
            i = copy * len(images) + row
            other = labels[partner[i] % len(images)]
            caption = f"{share[i]:.2f} {label} + {1 - share[i]:.2f} {other}"
            _show(axis, mixed[i], caption if share[i] < 1 else "")
    return figure


def _show(axes: Any, image: npt.NDArray[Any], caption: str) -> None:
    axes.imshow(np.clip(np.round(image), 0, 255).astype(np.uint8))
    axes.set_title(caption, fontsize=7, pad=2, parse_math=False)
    axes.set_axis_off()


def _describe(config: AugmentConfig) -> str:
    """Returns a description of the augmentation, with at most 100 characters per line."""
    mix = "" if config.mix == "none" else f"; {config.mix}, alpha {config.mix_alpha}"
    parts = ", ".join(config.parts) or "no parts"
    return textwrap.fill(f"magnitude {config.magnitude}: {parts}{mix}", 100)
