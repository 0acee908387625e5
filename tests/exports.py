"""Rules, networks and metadata of exports, for tests that need no training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from skincnn.config import Config, DataConfig, ModelConfig, TrainConfig
from skincnn.inference.ood import BlockGaussian, FeatureGaussian, inner_blocks
from skincnn.inference.predict import with_features
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.network import build_network

CONFIG = Config(
    data=DataConfig(image_size=32),
    model=ModelConfig(backbone="test_presets:one_layer", weights="none"),
    train=TrainConfig(scenario="from_scratch"),
)


def make_rule(*class_names: str, **changes: Any) -> DecisionRule:
    """Returns a rule for these classes, by default without calibration."""
    count = len(class_names)
    calibration_map = CalibrationMap(temperature=1.0, bias=(0.0,) * count)
    fields = {"calibration_map": calibration_map, "threshold": 0.5, "max_distance": 1.0}
    fields |= {"class_names": class_names, "set_thresholds": (0.1,) * count}
    return DecisionRule(**{**fields, **changes})


def with_distance(model: keras.Model) -> keras.Model:
    """Returns a classifier with OOD distances from Gaussians of mean 0 and covariance 1."""
    _, *features = with_features(model).outputs
    sizes = [block.shape[-1] for block in inner_blocks(features)]
    blocks = [
        BlockGaussian(np.zeros(n, "float32"), np.eye(n, dtype="float32")) for n in sizes
    ]
    return build_network(model, FeatureGaussian(tuple(blocks)))


def run_example(usage: str, path: Path, image: np.ndarray) -> dict[str, float]:
    """Runs the code for a file in export/README.md, and returns what it prints."""
    inputs, *examples = re.findall(r"```python\n(.*?)```", usage, re.DOTALL)
    (code,) = (inputs + code for code in examples if path.name in code)
    file = path.parent / "x.png"
    Image.fromarray(image).save(file)
    code = code.replace(path.name, str(path)).replace("x.jpg", str(file))
    printed: list[dict[str, float]] = []
    exec(code, {"print": printed.append})
    file.unlink()
    return printed[0]
