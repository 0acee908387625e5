"""Corruptions of dermatoscopic images at five severities, to measure robustness.

Based on Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations (2019), arXiv:1903.12261, and, for dermatoscopy, on Maron et
al., A benchmark for neural network robustness in skin cancer classification (2021),
doi:10.1016/j.ejca.2021.06.047. A model must not be tested on corruptions that it was
trained on. Therefore this module shares no code with `skincnn.model.augment`, and each
corruption is either absent from the default augmentation or stronger than its maximum, as
the docstrings explain.

A corruption takes an image (uint8 [height, width, 3]), a strength and a random generator,
and returns a new image of the same shape and type. The random numbers are the same at all
strengths: for example, the hairs of severity 2 are a subset of the hairs of severity 3.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal
from PIL import Image

from skincnn.data.cache import Images
from skincnn.errors import ConfigError
from skincnn.inference.synthetic_artifacts import ImageArray, bubbles, hairs, ruler
from skincnn.lookup import look_up

Corruption = Callable[[ImageArray, Any, np.random.Generator], ImageArray]
NUM_SEVERITIES = 5
READ_NOISE = 0.2
"""Variance of the noise at black, relative to the variance at white."""


def brightness(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Darkens or brightens an image, as under- and overexposure do.

    Multiplies the odds x / (1 - x) of a pixel value x in 0..1 by exp(strength) or
    exp(-strength), which preserves black and white. The default augmentation shifts the
    brightness by up to 10 % of white; this corruption changes middle gray by more than 16 %
    of white.
    """
    odds = math.exp(rng.choice((-1, 1)) * strength)
    levels = np.arange(256) / 255
    curve = _to_uint8(255 * odds * levels / (1 + (odds - 1) * levels))
    return curve[image]


def contrast(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Reduces the contrast about the mean color, as stray light and a dirty lens do.

    The contrast is multiplied by the strength; the default augmentation uses 0.8 or more.
    """
    mean = image.mean(axis=(0, 1), dtype=np.float32)
    return _to_uint8(strength * image.astype(np.float32) + (1 - strength) * mean)


def color_cast(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Tints an image, as an unusual light source or a wrong white balance does.

    The gains of red, green and blue are exp(strength * cos(angle)) at angles that are 120
    degrees apart, the first one random; the gains multiply to 1. The default augmentation
    changes gains by up to 5 %; here, the largest gain exceeds the smallest by 19 % or more.
    """
    angles = rng.uniform(0, 2 * math.pi) + 2 * math.pi / 3 * np.arange(3)
    gains = np.exp(strength * np.cos(angles))
    return _to_uint8(image * gains.astype(np.float32))


def blur(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Blurs an image with a Gaussian, as a greasy lens or upscaling does.

    The standard deviation is 0.7 pixels plus the strength times the shorter side. The
    augmentation `blur`, which is off by default, has a default maximum of 0.7 pixels.
    """
    sigma = 0.7 + strength * min(image.shape[:2])
    blurred = scipy.ndimage.gaussian_filter(
        image.astype(np.float32), (sigma, sigma, 0), truncate=3.0
    )
    return _to_uint8(blurred)


def defocus(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Blurs an image with a disk, as an unfocused lens does.

    The radius is half a pixel plus the strength times the shorter side. The augmentation
    `blur`, which resembles this corruption, is off by default.
    """
    radius = 0.5 + strength * min(image.shape[:2])
    reach = math.ceil(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filter(image, np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1))


def motion(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Blurs an image along a line of random direction, as a moving hand does.

    The length is one pixel plus the strength times the shorter side. No training
    augmentation resembles this corruption.
    """
    angle = rng.uniform(0, math.pi)
    half = 0.5 + strength * min(image.shape[:2]) / 2
    reach = math.ceil(half)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = np.abs(rows * math.sin(angle) + columns * math.cos(angle))
    across = np.abs(rows * math.cos(angle) - columns * math.sin(angle))
    line = np.clip(1 - across, 0, 1) * np.clip(half + 0.5 - along, 0, 1)
    return _filter(image, line)


def noise(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Adds the noise of a sensor in low light.

    The noise is Gaussian and independent for each pixel and channel. The variance increases
    linearly with the pixel value (photon noise), from `READ_NOISE` times the variance at
    white. The strength is the standard deviation at white, relative to white. No training
    augmentation resembles this corruption.
    """
    variance = READ_NOISE + (1 - READ_NOISE) * np.arange(256) / 255
    deviation = np.sqrt(variance) * (255 * strength)
    normal = rng.standard_normal(image.shape, dtype=np.float32)
    return _to_uint8(image + deviation.astype(np.float32)[image] * normal)


def jpeg(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Compresses an image as JPEG, as messaging apps do.

    The strength is the quality of libjpeg in 1..100, with chroma subsampling. The blocks
    are 8 pixels wide at any image size. No training augmentation resembles this corruption.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=strength, subsampling=2)
    with Image.open(buffer) as stored:
        return np.array(stored.convert("RGB"))


def zoom(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """Magnifies a crop, as a stronger lens does.

    The strength is the magnification, which is at most 1.22 in the default augmentation.
    Along each axis, the crop is off-center by up to a tenth of the margin on one side.
    """
    height, width = image.shape[:2]
    size = np.array([width, height]) / strength
    start = (np.array([width, height]) - size) * (0.5 + rng.uniform(-0.05, 0.05, 2))
    zoomed = Image.fromarray(image).resize(
        (width, height), Image.Resampling.BICUBIC, box=(*start, *(start + size))
    )
    return np.array(zoomed)


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "brightness": (brightness, (0.7, 0.95, 1.2, 1.5, 1.8)),
    "contrast": (contrast, (0.70, 0.57, 0.46, 0.37, 0.30)),
    "color_cast": (color_cast, (0.12, 0.16, 0.20, 0.25, 0.30)),
    "blur": (blur, (0.004, 0.007, 0.011, 0.016, 0.022)),
    "defocus": (defocus, (0.008, 0.013, 0.019, 0.027, 0.036)),
    "motion": (motion, (0.025, 0.045, 0.07, 0.10, 0.14)),
    "noise": (noise, (0.05, 0.08, 0.12, 0.17, 0.24)),
    "jpeg": (jpeg, (30, 20, 15, 11, 8)),
    "zoom": (zoom, (1.30, 1.45, 1.60, 1.80, 2.00)),
    "hairs": (hairs, (8, 14, 22, 32, 44)),
    "ruler": (ruler, (0.08, 0.11, 0.14, 0.17, 0.20)),
    "bubbles": (bubbles, (10, 20, 34, 52, 75)),
}
"""The function of each corruption, and its strengths at severities 1 to 5, by name.

Severity 1 is slightly stronger than similar default augmentations. The other strengths were
chosen by eye at 160 and 450 pixels, in steps that look even, such that a lesion is still
recognizable at severity 5.
"""


def corrupt(images: Images, name: str, severity: int, seed: int, first: int = 0) -> Images:
    """Returns corrupted images, uint8 [num_images, height, width, 3].

    The seed of each image is derived from `seed`, the position of the image in the split
    and the name of the corruption, so the result does not depend on the batches.

    Args:
        images: uint8 [num_images, height, width, 3].
        name: A key of `CORRUPTIONS`.
        severity: 1..5.
        seed: Random seed.
        first: Position of the first of these images in the split, counted from 0.

    Raises:
        ConfigError: The corruption or the severity does not exist.
    """
    function, strengths = look_up(CORRUPTIONS, name, "The corruption")
    if not 1 <= severity <= NUM_SEVERITIES:
        raise ConfigError(
            f"`severity` must be in 1..{NUM_SEVERITIES}. Received: severity={severity}."
        )
    # The name is part of the seed. The published scores were measured with this spelling.
    name = name.replace("color", "colour")

    def corrupt_image(index: int) -> ImageArray:
        rng = np.random.default_rng([seed, first + index, *name.encode()])
        return function(images[index], strengths[severity - 1], rng)

    # NumPy, SciPy and Pillow release the global interpreter lock.
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(corrupt_image, range(len(images)))))


def _filter(image: ImageArray, kernel: npt.NDArray[np.float64]) -> ImageArray:
    """Convolves an image, extended by reflection, with a kernel that is scaled to sum 1.

    The kernel is square, [size, size], with an odd size.
    """
    reach = kernel.shape[0] // 2
    margins = ((reach, reach), (reach, reach), (0, 0))
    padded = np.pad(image.astype(np.float32), margins, mode="symmetric")
    weights = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return _to_uint8(scipy.signal.oaconvolve(padded, weights, mode="valid", axes=(0, 1)))


def _to_uint8(image: npt.NDArray[np.floating]) -> ImageArray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
