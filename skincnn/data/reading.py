"""What decides how pictures are read: fields of a configuration, and a version of the code.

Whoever only looks at runs needs no TensorFlow for it.
"""

from __future__ import annotations

from skincnn.config import DataConfig

PREPROCESSING = 1
"""The version of what is done to pictures: raised where the same fields give other pixels,
to which a model that was trained before does not belong."""


def preprocessing_fields(config: DataConfig) -> dict[str, int | str | bool]:
    """Returns the fields of `config` that change what `preprocess.read_image` returns."""
    return {
        "image_size": config.image_size,
        "resize_mode": config.resize_mode,
        "crop_border": config.crop_border,
        "color_constancy": config.color_constancy,
    }


def describe_preprocessing(config: DataConfig) -> dict[str, int | str | bool]:
    """Returns what a model must meet again: `preprocessing_fields` and their version."""
    return {"version": PREPROCESSING, **preprocessing_fields(config)}
