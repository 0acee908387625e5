"""The JAX backend: parts, runs, exchange of runs with TensorFlow, and two processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run_script
from test_resume import wait_for_epoch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax") is None, reason="pip install -e .[jax]"
    ),
]
FLAGS = (
    "--data.datasets demo_tiny --data.image-size 32 --model.backbone small_cnn "
    "--model.width-multiplier 0.25 --train.epochs 4 --train.deterministic True "
    "--optimizer.ema-momentum 0.9 --augment.mix cutmix "
    "--evaluate.num-bootstrap 100 --cache memory"
).split()
PARTS = ("test_losses", "test_optimizers", "test_mixing", "test_grad_cam")


def start(workdir: Path, data_dir: Path, *flags: str, **env: str) -> subprocess.Popen[str]:
    """Starts `scripts/train.py` with JAX."""
    where = ["--workdir", str(workdir), "--data-dir", str(data_dir)]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *where, *FLAGS, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", **env},
    )


def end(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def jax_run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    workdir = tmp_path_factory.mktemp("jax") / "run"
    output = end(start(workdir, data_dir))
    assert "Training on cpu:0 in float32: jax, XLA on" in output
    # The export with TensorFlow is compared with the predictions of JAX.
    assert str(workdir / "export/skincnn/1") in output
    return workdir


def test_parts_pass_their_tests_with_jax() -> None:
    files = [f"tests/{name}.py" for name in PARTS]
    # The deselected tests compute gradients with TensorFlow.
    selection = ["-k", "not gradients and not uninformative"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files, *selection],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout


def probabilities(workdir: Path) -> pd.DataFrame:
    table = pd.read_csv(workdir / "predictions" / "test.csv").set_index("image_id")
    return table.filter(like="probability_")


def evaluated_with(backend: str, run: Path, data_dir: Path, folder: Path) -> pd.DataFrame:
    """Evaluates a copy of a run, and returns its predictions."""
    copy = folder / backend
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "predictions")
    flags = ["--data-dir", data_dir, "--cache", "memory"]
    done = run_script("evaluate.py", copy, *flags, KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    return probabilities(copy)


def test_a_run_of_one_backend_is_evaluated_with_the_other(
    jax_run: Path,
    run: tuple[Path, subprocess.CompletedProcess[str]],
    data_dir: Path,
    tmp_path: Path,
) -> None:
    for backend, workdir in (("tensorflow", jax_run), ("jax", run[0])):
        predicted = evaluated_with(backend, workdir, data_dir, tmp_path)
        pd.testing.assert_frame_equal(
            predicted, probabilities(workdir), check_exact=False, rtol=0, atol=1e-4
        )


def test_an_interrupted_run_equals_an_uninterrupted_one(
    jax_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """SIGTERM arrives within an epoch, when the variables are empty with JAX."""
    process = start(tmp_path, data_dir)
    wait_for_epoch(1, tmp_path, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 143, output
    assert "Resuming" in end(start(tmp_path, data_dir, "--resume"))
    pd.testing.assert_frame_equal(
        probabilities(tmp_path), probabilities(jax_run), check_exact=True
    )


def start_two(folder: Path, data_dir: Path, *flags: str) -> list[subprocess.Popen[str]]:
    """Starts two processes of one training run; the first writes the run, `folder`/0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            folder / f"{number}",
            data_dir,
            *flags,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=f"{number}",
        )
        for number in range(2)
    ]


def test_two_processes_train_like_one(
    jax_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """A signal to one process stops both. Both resume; only the first writes a run."""
    processes = start_two(tmp_path, data_dir)
    wait_for_epoch(1, tmp_path / "0", processes[0])
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        # Without `leave_processes` they would wait for each other for 90 seconds.
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 143, output
    outputs = [end(process) for process in start_two(tmp_path, data_dir, "--resume")]
    assert all("Resuming" in output for output in outputs)
    assert ["report  " in output for output in outputs] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    alone, together = (
        pd.read_csv(workdir / "history.csv") for workdir in (jax_run, tmp_path / "0")
    )
    # Sums over processes round differently, and training amplifies the difference.
    loss = alone["loss"], together["loss"]
    np.testing.assert_allclose(loss[0][:1], loss[1][:1], rtol=1e-5)
    np.testing.assert_allclose(loss[0], loss[1], rtol=5e-3)
    np.testing.assert_allclose(
        probabilities(jax_run), probabilities(tmp_path / "0"), atol=0.02
    )
