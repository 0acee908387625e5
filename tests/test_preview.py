from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skincnn.cli import common, train
from skincnn.cli.preview import plot_variations
from skincnn.config import AugmentConfig


def test_preview_draws_a_page_and_trains_nothing(
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = (
        "--preview --data.dataset demo_tiny --data.image-size 32 --augment.mix cutmix "
        "--augment.parts flip"
    ).split()
    command = ["train.py", "--workdir", tmp_path / "run", "--data-dir", data_dir, *flags]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    common.main(train.command)
    path = tmp_path / "run" / "preview.png"
    assert capsys.readouterr().out == f"preview {path}\n"
    assert list(path.parent.iterdir()) == [path]
    with Image.open(path) as page:
        # Seven classes, an original and seven draws each.
        assert page.width > 900
        assert page.height > 900


def test_a_page_shows_originals_draws_and_shares() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    labels = ["mel", "nv", "bcc"]
    config = AugmentConfig(parts=(), mix="mixup", mix_alpha=1)
    page = plot_variations(images, labels, config, draws=4)
    axes = page.get_axes()
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
