"""What scripts and commands import and print when TensorFlow starts."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
UNUSED = ("sklearn.cluster", "keras_tuner", "skincnn.training", "skincnn.reporting.plots")
"""Modules that only other commands need."""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_api_prints_no_messages_of_tensorflow(tmp_path: Path) -> None:
    done = run_python(
        "import skincnn\n"
        "config = skincnn.Config().replace(**{'model.weights': 'none', "
        "'model.backbone': 'small_cnn', 'train.scenario': 'from_scratch'})\n"
        "model = skincnn.build_model(config, num_classes=2)\n"
        "model.predict(__import__('numpy').zeros((1, 96, 96, 3)), verbose=0)"
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.slow
def test_prediction_costs_little_more_than_loading_the_model(
    run: Run, tmp_path: Path
) -> None:
    """The CPU time is at most 1.3 times that of importing TensorFlow and the SavedModel."""
    workdir, _ = run
    image = tmp_path / "image.jpg"
    Image.new("RGB", (600, 450), (200, 150, 140)).save(image)
    load = (
        "import tensorflow as tf\n"
        f"tf.saved_model.load('{workdir}/export/skincnn/1').signatures['serving_default']"
    )
    predict = (
        f"import sys; sys.argv = ['skincnn predict', {str(workdir)!r}, {str(image)!r}]\n"
        "from skincnn.cli.predict import command; command()\n"
        f"print([x for x in {UNUSED} if x in sys.modules], file=sys.stderr)"
    )
    ratios = []
    for _ in range(5):  # alternately, because the speed of a shared machine varies
        times = [resource.getrusage(resource.RUSAGE_CHILDREN)]
        for code in (load, predict):
            done = run_python(code)
            times.append(resource.getrusage(resource.RUSAGE_CHILDREN))
        assert done.stderr.endswith("[]\n")
        cpu = [each.ru_utime + each.ru_stime for each in times]
        ratios.append((cpu[2] - cpu[1]) / (cpu[1] - cpu[0]))
    assert statistics.median(ratios) <= 1.3, ratios
