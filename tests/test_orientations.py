from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from skincnn.model.orientations import ORIENTATIONS, orient

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
PILLOW = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSVERSE,
)
"""The orientations of "d4", in order."""


@pytest.mark.parametrize("in_graph", [False, True])
def test_the_orientations_of_d4_match_pillow(in_graph: bool) -> None:
    function = tf.function(orient) if in_graph else orient
    for number, operation in zip(ORIENTATIONS["d4"], PILLOW, strict=True):
        for image, oriented in zip(IMAGES, function(IMAGES, number), strict=True):
            expected = Image.fromarray(image)
            if operation is not None:
                expected = expected.transpose(operation)
            np.testing.assert_array_equal(oriented, np.asarray(expected))


def test_orienting_images_logs_no_error_of_onednn() -> None:
    code = (
        "import numpy as np; from skincnn.cli.common import load_tensorflow\n"
        "load_tensorflow(); from skincnn.model.orientations import orient\n"
        "orient(np.zeros((32, 96, 96, 3), np.uint8), 4)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_first_orientations_form_a_group(count: int) -> None:
    oriented = [np.asarray(orient(IMAGES, number)) for number in range(count)]
    first = {images.tobytes() for images in oriented}
    assert len(first) == count
    for images in oriented:
        again = {np.asarray(orient(images, number)).tobytes() for number in range(count)}
        assert again == first


def test_every_test_time_augmentation_starts_with_the_identity() -> None:
    assert all(numbers[0] == 0 for numbers in ORIENTATIONS.values())
