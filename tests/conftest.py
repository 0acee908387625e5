"""What several tests share: scripts in a process of their own, and one tiny run."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skincnn import cli

ROOT = Path(__file__).parents[1]
Script = Callable[..., "subprocess.CompletedProcess[str]"]

cli.load_tensorflow()


def run_script(
    name: str, *arguments: object, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script as a user would; `env` adds environment variables."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        timeout=600,
    )


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of built datasets that holds demo_tiny."""
    from skincnn.data.pipeline import prepare_dataset

    path = tmp_path_factory.mktemp("data")
    prepare_dataset("demo_tiny", path)
    return path


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder and the output of `scripts/train.py` on demo_tiny."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny run"
    # The average of the weights and two picture sizes: what the preset `cpu` uses. And
    # preprocessing and sampling, which no preset uses.
    flags = (
        "--data.dataset demo_tiny --data.image-size 64 --model.backbone mobilenet "
        "--model.width 0.25 --train.epochs 3 --train.small-epochs 1 "
        "--train.small-image-size 32 --optimizer.ema 0.9 --evaluate.resamples 200 "
        "--data.aspect pad --data.crop-border True --data.colour-constancy True "
        "--imbalance.strategy square_root_sampling"
    ).split()
    done = run_script("train.py", "--workdir", workdir, "--data-dir", data_dir, *flags)
    assert done.returncode == 0, done.stderr
    return workdir, done


def jpeg(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """Returns a small smooth picture as a JPEG file."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def manual_dir(tmp_path: Path) -> Path:
    """HAM10000's published layout with 2 x 10 lesions of each class, 210 pictures."""
    return write_manual_dir(tmp_path / "manual é dir")


def write_manual_dir(folder: Path) -> Path:
    """Writes both archives and the CSV, with the quirks that published files have."""
    from tfds_ham10000.sources import CLASS_NAMES, COLUMNS, IMAGE_ARCHIVES, METADATA_FILE

    folder.mkdir(parents=True)
    rows = []
    archives = [zipfile.ZipFile(folder / name, "w") for name in IMAGE_ARCHIVES]
    for dx in CLASS_NAMES:
        for lesion in range(20):
            for _ in range(1 + lesion % 2):
                number = len(rows)
                image_id = f"ISIC_{number:07d}"
                archives[number % 2].writestr(f"part/{image_id}.jpg", jpeg(number))
                age = "" if number % 50 == 0 else "45.0"
                lesion_id = f"HAM_{dx}_{lesion}"
                rows.append(
                    [lesion_id, image_id, dx, "histo", age, "female", "back", "rosendahl"]
                )
    for archive in archives:
        archive.close()
    with (folder / METADATA_FILE).open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder
