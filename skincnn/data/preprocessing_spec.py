"""The configuration fields and code version that determine preprocessing.

This module is separate from `preprocess`, so that reading a run does not import
TensorFlow.
"""

from __future__ import annotations

from skincnn.config import DataConfig

PREPROCESSING_VERSION = 1
"""Increment this when the code produces different pixels from the same fields. Models with
another version are rejected."""

FIELDS = ("image_size", "resize_mode", "crop_border", "color_constancy")


def preprocessing_fields(config: DataConfig) -> dict[str, int | str | bool]:
    """Returns the fields of `config` that affect the result of `preprocess.read_image`."""
    return {name: getattr(config, name) for name in FIELDS}


def describe_preprocessing(config: DataConfig) -> dict[str, int | str | bool]:
    """Returns `preprocessing_fields` and the version of the code, to store with a model."""
    return {"version": PREPROCESSING_VERSION, **preprocessing_fields(config)}
