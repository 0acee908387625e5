"""What scripts and commands import and print when TensorFlow starts."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
UNUSED = ("sklearn.cluster", "keras_tuner", "skincnn.training", "skincnn.reporting.plots")
"""Modules that only other commands need."""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_commands_start_tensorflow_before_they_import_the_api() -> None:
    """Otherwise, TensorFlow prints its messages."""
    paths = [path for path in (ROOT / "skincnn/cli").glob("*.py") if path.stem != "common"]
    texts = [text for path in paths if "from skincnn.api" in (text := path.read_text())]
    assert len(texts) >= 3
    assert all("    common.load_tensorflow(" in text for text in texts)


def test_a_path_that_does_not_exist_is_an_error_before_tensorflow_is_imported() -> None:
    commands = ("evaluate", "report", "compare", "export", "predict", "serve")
    run_python(
        "import sys\n"
        "from skincnn.cli.main import run\n"
        f"for name in {commands}:\n"
        "    sys.argv[1:] = ['missing'] + ['x.jpg'] * (name == 'predict')\n"
        "    try:\n"
        "        run(name)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 2\n"
        "assert 'tensorflow' not in sys.modules"
    )


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
@pytest.mark.parametrize("model", ["export/skincnn/1", "model.keras"])
def test_prediction_costs_little_more_than_loading_the_model(
    model: str, run: Run, tmp_path: Path
) -> None:
    """Importing TensorFlow and loading the model take most of the CPU time."""
    path = run[0] / model
    image = tmp_path / "image.jpg"
    Image.new("RGB", (600, 450), (200, 150, 140)).save(image)
    load = (
        "import tensorflow as tf\n"
        f"tf.saved_model.load({str(path)!r}).signatures['serving_default']"
    )
    if model == "model.keras":
        load = f"import keras, skincnn.model.layers; keras.saving.load_model({str(path)!r})"
    predict = (
        f"import sys; sys.argv = ['skincnn predict', {str(path)!r}, {str(image)!r}]\n"
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
