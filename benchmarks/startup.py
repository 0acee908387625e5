"""Benchmark of the CPU time of a command that predicts one image."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.measure import PAIRS, Result, summarize
from skincnn.inference.run_dir import MODEL_FILE
from skincnn.serving.predictor import find_model


@dataclass(frozen=True)
class Setting:
    """A model (see `find_model`), either a SavedModel or a model.keras, and an image."""

    model: Path
    image: Path


def prepare(model: Path, root: Path) -> Setting:
    """Writes an image to `root`. See `load_predictor` for `model`."""
    image = root / "image.jpg"
    Image.new("RGB", (600, 450), (200, 150, 140)).save(image)
    return Setting(find_model(model), image)


def prediction(setting: Setting) -> Iterator[Result]:
    """Measures `skincnn predict` relative to importing TensorFlow and loading a model."""
    path, image = str(setting.model), str(setting.image)
    load = (
        "import tensorflow as tf\n"
        f"tf.saved_model.load({path!r}).signatures['serving_default']"
    )
    if setting.model.name == MODEL_FILE:
        load = f"import keras, skincnn.model.layers; keras.saving.load_model({path!r})"
    predict = (
        f"import sys; sys.argv = ['skincnn predict', {path!r}, {image!r}]\n"
        "from skincnn.cli.predict import command; command()"
    )
    rounds = [
        (cpu_seconds(load), cpu_seconds(predict), cpu_seconds(load))
        for _ in range(PAIRS + 1)
    ]
    name = "CPU time of predicting one image / importing TensorFlow and loading the model"
    yield summarize(name, rounds, at_most=1.3)


def cpu_seconds(code: str) -> float:
    """Returns the CPU time of a new Python process that runs `code`, in seconds.

    Raises:
        subprocess.CalledProcessError: The code failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


BENCHMARKS = {"prediction": prediction}
