"""The configuration fields and code version that determine preprocessing.

This module is separate from `skincnn.data.preprocess`, so that reading a run does not
import TensorFlow.
"""

from __future__ import annotations

from skincnn.config import DataConfig

PREPROCESSING_VERSION = 1
"""Increment this when the same images and `FIELDS` yield different pixels. Models that were
trained with another version are rejected."""

FIELDS = (
    *("image_size", "resize_mode", "resize_method", "crop_height", "crop_width"),
    *("crop_border", "color_constancy"),
)
"""Fields of `DataConfig` that determine the result of preprocessing."""
Value = int | float | str | bool


def preprocessing_fields(config: DataConfig) -> dict[str, Value]:
    """Returns the values of `FIELDS` by name."""
    return {name: getattr(config, name) for name in FIELDS}


def describe_preprocessing(config: DataConfig) -> dict[str, Value]:
    """Returns `preprocessing_fields` and `PREPROCESSING_VERSION`, to store with a model."""
    return {"version": PREPROCESSING_VERSION, **preprocessing_fields(config)}
