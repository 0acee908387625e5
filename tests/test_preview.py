"""The figure of augmented training images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from PIL import Image
from source_files import write_folder

from skincnn.api.preview import plot_augmented, plot_preview
from skincnn.config import AugmentConfig, Config, DataConfig
from skincnn.data.datasets import prepare_dataset
from skincnn.errors import DataError


def test_the_command_draws_a_figure_and_does_not_train(
    tmp_path: Path, data_dir: Path
) -> None:
    flags = (
        "--preview --data.datasets demo_tiny --data.image-size 32 --augment.mix cutmix "
        "--augment.parts flip"
    ).split()
    workdir = tmp_path / "run"
    done = run_here("train.py", "--workdir", workdir, "--data-dir", data_dir, *flags)
    path = workdir / "preview.png"
    assert done.stdout == f"preview {path}\n"
    assert list(path.parent.iterdir()) == [path]
    with Image.open(path) as figure:
        # An original and seven augmented copies of each of seven classes.
        assert figure.width > 900
        assert figure.height > 900


def test_the_first_fold_with_images_is_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {}
    for name in ("a$x$", "b", "c"):
        for number in range(3):  # with three groups, a class is in the folds 1, 8 and 9
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "PNG")
            files[f"{name}/{number}.png"] = buffer.getvalue()
    write_folder(tmp_path / "images", files)
    prepare_dataset("folder", tmp_path / "data", tmp_path / "images")
    config = Config(data=DataConfig(datasets=("folder",), image_size=32))
    axes = plot_preview(config, tmp_path / "data").get_axes()
    assert [axis.get_title() for axis in axes[::8]] == [
        "a$x$, original",
        "b, original",
        "c, original",
    ]
    data = DataConfig(datasets=("folder",), train_folds=(0, 2))
    with pytest.raises(DataError, match=r"folds \(0, 2\) of .* have no images"):
        plot_preview(Config(data=data), tmp_path / "data")


def test_the_figure_shows_originals_copies_and_shares() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    labels = ["mel", "nv", "bcc"]
    config = AugmentConfig(parts=(), mix="mixup", mix_alpha=1)
    axes = plot_augmented(images, labels, config, num_copies=4).get_axes()
    assert len(axes) == 3 * 5
    for row, label in enumerate(labels):
        first = axes[5 * row]
        assert first.get_title() == f"{label}, original"
        np.testing.assert_array_equal(first.images[0].get_array(), images[row])
        for axis in axes[5 * row + 1 : 5 * row + 5]:
            share, own, _, rest, other = axis.get_title().split()
            assert own == label
            assert other in labels
            assert float(share) + float(rest) == pytest.approx(1, abs=0.011)
            mixed = float(share) * images[row] + float(rest) * images[labels.index(other)]
            np.testing.assert_allclose(axis.images[0].get_array(), mixed, atol=4)
