"""Images in the logs of a run, read with TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from skincnn.classes import HAM10000
from skincnn.config import AugmentConfig
from skincnn.errors import ConfigError
from skincnn.training.tensorboard import draw_confusion_matrix, sample_grid, write_image

NAMES = [lesion.name for lesion in HAM10000]


def read_images(folder: Path) -> dict[str, dict[int, np.ndarray]]:
    """Returns the images of each tag by step, and checks that steps are unique."""
    reader = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    images = {}
    for tag in reader.Tags()["images"]:
        events = reader.Images(tag)
        assert len({event.step for event in events}) == len(events)
        images[tag] = {
            event.step: np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
            for event in events
        }
    return images


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    for step, image in ((2, first), (10, first), (2, second)):
        write_image(tmp_path / "logs", "x", step, image)
    images = read_images(tmp_path / "logs")["x"]
    assert list(images) == [2, 10]
    np.testing.assert_array_equal(images[2], second)
    np.testing.assert_array_equal(images[10], first)


@pytest.mark.parametrize("number", [3, 16, 20])
def test_samples_are_in_rows_of_four(number: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (number, 6, 5, 3), np.uint8)
    labels = np.zeros(number, np.int64)
    grid = sample_grid(images, labels, AugmentConfig(parts=()), seed=0)
    rows = 1 if number == 3 else 4
    assert grid.shape == (6 * rows, 5 * 4, 3)
    for i, image in enumerate(images[:16]):
        row, column = divmod(i, 4)
        image_drawn = grid[6 * row : 6 * row + 6, 5 * column : 5 * column + 5]
        np.testing.assert_array_equal(image_drawn, image)
    assert number != 3 or not grid[:, 15:].any()


def test_samples_cover_all_classes_and_are_augmented_and_mixed() -> None:
    images = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(16)])
    labels = np.array([0] * 12 + [1, 1, 2, 2])

    def samples(config: AugmentConfig) -> np.ndarray:
        return sample_grid(images, labels, config, seed=0)

    originals = samples(AugmentConfig(parts=()))
    assert (originals[0, ::8, 0] == [0, 120, 140, 10]).all()
    assert (originals[8, ::8, 0] == [130, 150, 20, 30]).all()
    assert (samples(AugmentConfig(parts=("light",))) != originals).mean() > 0.5
    mixed = samples(AugmentConfig(parts=(), mix="cutmix", mix_alpha=1))
    # With CutMix a cell has parts of two images, each of a single value.
    values = [np.unique(mixed[8 * i : 8 * i + 8, :8]) for i in range(4)]
    assert max(len(value) for value in values) == 2


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skincnn.training.tensorboard.RecordWriter.write", fail)
    with pytest.raises(ConfigError, match="No space left"):
        write_image(tmp_path, "x", 0, np.zeros((2, 2, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_cells_with_more_images_are_darker() -> None:
    image = draw_confusion_matrix(np.array([[8, 2], [0, 0]]), ["a", "b"])
    height, width, _ = image.shape
    cells = image[height - 2 * 56 :, width - 28 - 2 * 56 : width - 28]
    corners = [cells[56 * i + 4, 56 * j + 4].sum() for i in range(2) for j in range(2)]
    assert corners[0] < corners[1] < corners[2] == corners[3] == 3 * 255
