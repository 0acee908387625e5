"""The presets of published recipes, compared with the recipes item by item."""

from __future__ import annotations

from typing import Any

import pytest

from skincnn.config import Config
from skincnn.presets import PRESETS, published

CONSTANT: dict[str, Any] = {
    "optimizer.schedule": "constant",
    "optimizer.warmup_epochs": 0,
    "optimizer.clip_norm": 0,
    "optimizer.weight_decay": 0,
}
IMAGENET: dict[str, Any] = {
    "model.weights": "imagenet",
    "model.channel_mean": (0.485, 0.456, 0.406),
    "model.channel_std": (0.229, 0.224, 0.225),
    "model.dropout": 0,
}
ALL_LAYERS: dict[str, Any] = {
    "train.scenario": "fine_tune",
    "train.head_epochs": 0,
    "train.trainable_blocks": -1,
    "model.batch_norm": "train",
    "model.batch_norm_momentum": 1 - 0.1,  # default of PyTorch
}
HAM10000 = {"data.datasets": ("isic2018",), "data.split_by": "lesion"}
R1 = {
    **(CONSTANT | IMAGENET | ALL_LAYERS),
    "data.datasets": ("folder",),
    "data.image_size": 84,
    "data.batch_size": 32,
    "augment.parts": (),
    "model.backbone": "resnet50",
    "imbalance.strategy": "none",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 1e-3,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "train.epochs": 20,
    "train.keep_epoch": "last",
}
R1_V2 = {
    **R1,
    "augment.parts": ("rotate", "flip", "flip_vertical"),
    "augment.rotation_degrees": 30,
    "augment.border": "black",
    "imbalance.strategy": "class_weights",
    "imbalance.power": 1,
    "loss.weighted_mean": True,
}
R2 = {
    **(CONSTANT | IMAGENET | HAM10000),
    "data.image_size": 224,
    "data.resize_mode": "stretch",
    "data.resize_method": "nearest",
    "data.batch_size": 30,
    "augment.parts": ("flip", "flip_vertical", "transpose", "rotate", "crop", "shear"),
    "augment.choose": "one",
    "augment.rotation_degrees": 180,
    "augment.border": "black",  # not stated, chosen
    "model.backbone": "vgg19",
    "model.batch_norm": "frozen_statistics",
    "model.channel_mean": (0, 0, 0),
    "imbalance.strategy": "oversampling",
    "imbalance.factors": (4, 1, 1, 16, 1, 1, 16),
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 1e-4,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-5,
    "optimizer.decay_mode": "l2",
    "train.scenario": "staged",
    "train.stages": ((0, 3, 1), (-1, 7, 0.1), (-1, 5, 0.01)),
    "train.keep_epoch": "last",
}
R3 = {
    **(CONSTANT | IMAGENET | ALL_LAYERS | HAM10000),
    "data.image_size": 224,
    "data.crop_height": 224 / 224,
    "data.crop_width": 224 / 280,
    "data.one_image_per_lesion": "all",
    "data.batch_size": 64,
    "augment.parts": ("flip", "rotate"),
    "augment.rotation_degrees": 180,
    "augment.border": "black",
    "model.backbone": "resnet50",
    "imbalance.strategy": "none",
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay_mode": "l2",
    "optimizer.decay_all": True,
    "train.epochs": 999,
    "train.monitor": "log_loss",
    "train.patience": 50,
    "train.keep_epoch": "best",
}
R4 = {
    **(CONSTANT | IMAGENET | ALL_LAYERS | HAM10000),
    "data.image_size": 224,
    "data.resize_mode": "stretch",
    "data.single_image_lesions": True,
    "data.batch_size": 32,
    "augment.parts": ("flip", "flip_vertical", "rotate", "jitter"),
    "augment.rotation_degrees": 20,
    "augment.border": "black",
    "augment.brightness": 0.1,
    "augment.contrast": 0.1,
    "augment.saturation": 0,
    "augment.hue_degrees": 0.1 * 360,
    "model.backbone": "resnet50",
    "model.channel_mean": (0.7630392, 0.5456477, 0.57004845),
    "model.channel_std": (0.1409286, 0.15261266, 0.16997074),
    "imbalance.strategy": "oversampling",
    "imbalance.factors": (15, 10, 5, 50, 5, 1, 40),
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-3,
    "train.epochs": 10,
    "train.monitor": "weighted_f1",
    "train.keep_epoch": "last",
}
RECIPES: dict[str, dict[str, Any]] = {
    "cnn": {  # not stated, all chosen
        **(CONSTANT | HAM10000),
        "augment.parts": (),
        "model.backbone": "small_cnn",
        "model.weights": "none",
        "model.dropout": 0,
        "imbalance.strategy": "none",
        "optimizer.name": "adam",
        "train.scenario": "from_scratch",
        "train.epochs": 30,
        "train.monitor": "macro_f1",
    },
    "resnet50_sgd": R1,
    "resnet50_sgd_class_weights": R1_V2,
    "resnet50_sgd_sampler": {
        **R1_V2,
        "augment.parts": (*R1_V2["augment.parts"], "jitter", "blur", "sharpen"),
        "augment.brightness": 0.2,
        "augment.contrast": 0.2,
        "augment.saturation": 0.2,
        "augment.hue_degrees": 0.1 * 360,
        "augment.blur": 5,
        "augment.blur_kernel": (9, 5),
        "augment.sharpness": 2 - 1,
        "imbalance.strategy": "weights_and_sampling",
    },
    "resnet50_sgd_oversampling": {
        **R1_V2,
        "imbalance.strategy": "balanced_sampling",
        "imbalance.power": 0.75,  # unused
        "loss.weighted_mean": False,
    },
    "vgg19_stages": R2,
    "resnet50_stages": {**R2, "model.backbone": "resnet50"},
    "resnet50_one_image": R3,
    "resnet50_adam": R4,
    "mobilenet_v2_adam": {**R4, "model.backbone": "mobilenet_v2", "model.dropout": 0.2},
}
"""The settings of each recipe, by the path of the field."""


def fields(config: Config) -> dict[str, Any]:
    """Returns the values of all fields, by path; stages as tuples."""
    values: dict[str, Any] = {"seed": config.seed}
    for section, content in config.to_dict().items():
        if isinstance(content, dict):
            values |= {f"{section}.{name}": value for name, value in content.items()}
    values["train.stages"] = tuple(
        (stage.trainable_blocks, stage.epochs, stage.rate) for stage in config.train.stages
    )
    return values


def test_each_published_preset_has_a_recipe() -> None:
    presets = {name for name, x in PRESETS.items() if x.__module__ == published.__name__}
    assert set(RECIPES) == presets


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_has_the_settings_of_its_recipe_and_no_others(name: str) -> None:
    values, recipe = fields(PRESETS[name]()), RECIPES[name]
    assert {path: values[path] for path in recipe} == recipe
    defaults = fields(Config())
    changed = {path for path, value in values.items() if value != defaults[path]}
    assert changed <= set(recipe)
