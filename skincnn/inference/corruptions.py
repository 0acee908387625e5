"""What spoils a dermatoscopic picture, at five severities, to see what a model bears.

The idea is that of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations (2019), arXiv:1903.12261, and of Maron et al., A
benchmark for neural network robustness in skin cancer classification (2021),
doi:10.1016/j.ejca.2021.06.047, who made such pictures of dermatoscopy. A model must not
have been trained on what it is tested with. So nothing here is shared with
`skincnn.model.augment`, and each corruption is of a kind that the default augmentation does
not have, or starts where that ends; its docstring says which.

A corruption takes a picture, uint8 [height, width, 3], a severity of 1..5 and a generator,
and returns a new picture of that shape and type. It draws the same at all severities: the
hairs of severity 2 are among those of severity 3.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal
from PIL import Image

from skincnn.errors import ConfigError
from skincnn.inference.synthetic_artifacts import (
    Pictures,
    draw_bubbles,
    draw_hairs,
    draw_ruler,
)
from skincnn.lookup import look_up

Corruption = Callable[[Pictures, int, np.random.Generator], Pictures]
NUM_SEVERITIES = 5
STRENGTHS: dict[str, tuple[float, float, float, float, float]] = {
    "brightness": (0.7, 0.95, 1.2, 1.5, 1.8),
    "contrast": (0.70, 0.57, 0.46, 0.37, 0.30),
    "color_cast": (0.12, 0.16, 0.20, 0.25, 0.30),
    "blur": (0.004, 0.007, 0.011, 0.016, 0.022),
    "defocus": (0.008, 0.013, 0.019, 0.027, 0.036),
    "motion": (0.025, 0.045, 0.07, 0.10, 0.14),
    "noise": (0.05, 0.08, 0.12, 0.17, 0.24),
    "jpeg": (30, 20, 15, 11, 8),
    "zoom": (1.30, 1.45, 1.60, 1.80, 2.00),
    "hairs": (8, 14, 22, 32, 44),
    "ruler": (0.08, 0.11, 0.14, 0.17, 0.20),
    "bubbles": (10, 20, 34, 52, 75),
}
"""Each corruption's strength at severities 1 to 5; the functions say what it measures.

The first is set by where training ends. The others were chosen by eye, at 160 and 450
pixels, so that steps look alike and a lesion can still be recognised at the last.
"""
READ_NOISE = 0.2
"""The share of the noise that is there in the dark, where no light is counted."""


def brightness(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Makes a picture darker or lighter, as too little or too much light does.

    The odds x / (1 - x) of a gray level x in 0..1 are multiplied by exp(+strength) or
    exp(-strength): black and white stay. Training adds up to 10 % of white; this moves
    the middle gray by more than 16 %.
    """
    odds = math.exp(rng.choice((-1, 1)) * _strength("brightness", severity))
    levels = np.arange(256) / 255
    curve = _to_uint8(255 * odds * levels / (1 + (odds - 1) * levels))
    return curve[image]


def contrast(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Veils a picture with its mean color, as stray light and a dirty lens do.

    The strength is the share of contrast that is left. Training leaves 0.8 or more.
    """
    del rng
    left = _strength("contrast", severity)
    veil = image.mean(axis=(0, 1), dtype=np.float32)
    return _to_uint8(left * image.astype(np.float32) + (1 - left) * veil)


def color_cast(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Tints a picture, as another lamp and a wrong white balance do.

    The gains of red, green and blue are exp(strength * cos(angle)), at angles a third of a
    turn apart, the first of them drawn: their product is 1. Training has gains of up to
    5 %; here the two that differ most are 19 % apart and more.
    """
    angles = rng.uniform(0, 2 * math.pi) + 2 * math.pi / 3 * np.arange(3)
    gains = np.exp(_strength("color_cast", severity) * np.cos(angles))
    return _to_uint8(image * gains.astype(np.float32))


def blur(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Blurs by a Gaussian, as a greasy lens and enlarging a small picture do.

    Its standard deviation is 0.7 pixels, where the part `blur` of training ends (the
    default does not have it), and the strength in shares of the shorter side.
    """
    del rng
    sigma = 0.7 + _strength("blur", severity) * min(image.shape[:2])
    blurred = scipy.ndimage.gaussian_filter(
        image.astype(np.float32), (sigma, sigma, 0), truncate=3.0
    )
    return _to_uint8(blurred)


def defocus(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Spreads each point to a disc, as a lens out of focus does; training has no such part.

    The strength is the disc's radius in shares of the shorter side, beside half a pixel.
    """
    del rng
    radius = 0.5 + _strength("defocus", severity) * min(image.shape[:2])
    reach = math.ceil(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filter(image, np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1))


def motion(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Spreads each point to a line of any direction, as a moving hand does.

    The strength is the line's length in shares of the shorter side, beside one pixel.
    Training has no such part.
    """
    angle = rng.uniform(0, math.pi)
    half = 0.5 + _strength("motion", severity) * min(image.shape[:2]) / 2
    reach = math.ceil(half)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = np.abs(rows * math.sin(angle) + columns * math.cos(angle))
    across = np.abs(rows * math.cos(angle) - columns * math.sin(angle))
    line = np.clip(1 - across, 0, 1) * np.clip(half + 0.5 - along, 0, 1)
    return _filter(image, line)


def noise(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Adds the noise of a sensor in too little light; training has no such part.

    Of each pixel and channel by itself, Gaussian, with a variance that grows with the light
    (the photons that are counted) from `READ_NOISE` times that of white. The strength is
    the standard deviation at white, in shares of white.
    """
    spread = 255 * _strength("noise", severity)
    deviation = np.sqrt(READ_NOISE + (1 - READ_NOISE) * np.arange(256) / 255) * spread
    drawn = rng.standard_normal(image.shape, dtype=np.float32)
    return _to_uint8(image + deviation.astype(np.float32)[image] * drawn)


def jpeg(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Stores a picture as a small JPEG, as messengers do; training has no such part.

    The strength is libjpeg's quality in 1..100, with colors at half the resolution. Its
    blocks have 8 pixels, whatever the size of the picture.
    """
    del rng
    buffer = io.BytesIO()
    quality = int(_strength("jpeg", severity))
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling=2)
    with Image.open(buffer) as stored:
        return np.array(stored.convert("RGB"))


def zoom(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Shows a part of the picture larger, as a stronger lens and a tight crop do.

    The strength is the factor; training enlarges by up to 1.22. The part lies up to a tenth
    of the way from the middle to the border.
    """
    factor = _strength("zoom", severity)
    height, width = image.shape[:2]
    size = np.array([width, height]) / factor
    start = (np.array([width, height]) - size) * (0.5 + rng.uniform(-0.05, 0.05, 2))
    left, top = float(start[0]), float(start[1])
    return np.array(
        Image.fromarray(image).resize(
            (width, height),
            Image.Resampling.BICUBIC,
            box=(left, top, left + float(size[0]), top + float(size[1])),
        )
    )


def hairs(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Lays hairs over a picture, from black to dark blond.

    The strength is how many. Training has none by default; its part `hair` draws up to 6.
    """
    return draw_hairs(image, int(_strength("hairs", severity)), rng)


def ruler(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Lays a white ruler with marks and numbers along one of the borders.

    The strength is its breadth in shares of the shorter side. Training has none by default;
    its part `ruler` draws marks alone.
    """
    return draw_ruler(image, _strength("ruler", severity), rng)


def bubbles(image: Pictures, severity: int, rng: np.random.Generator) -> Pictures:
    """Sets air bubbles into the immersion gel; training has no such part.

    The strength is how many.
    """
    return draw_bubbles(image, int(_strength("bubbles", severity)), rng)


CORRUPTIONS: dict[str, Corruption] = {
    "brightness": brightness,
    "contrast": contrast,
    "color_cast": color_cast,
    "blur": blur,
    "defocus": defocus,
    "motion": motion,
    "noise": noise,
    "jpeg": jpeg,
    "zoom": zoom,
    "hairs": hairs,
    "ruler": ruler,
    "bubbles": bubbles,
}


def corrupt(
    images: Pictures, name: str, severity: int, seed: int, *, first: int = 0
) -> Pictures:
    """Returns spoilt copies of some pictures.

    Each picture has a generator of its own, seeded by its number and the corruption: it is
    spoilt in the same way in whatever company.

    Args:
        images: uint8 [num_images, height, width, 3].
        name: One of `CORRUPTIONS`.
        severity: 1..5.
        seed: Seed of the draws.
        first: The number of the first of these pictures in its split.

    Raises:
        ConfigError: There is no such corruption, or no such severity.
    """
    function = look_up(CORRUPTIONS, name, "corruption")

    def one(number: int) -> Pictures:
        rng = np.random.default_rng([seed, first + number, *name.encode()])
        return function(images[number], severity, rng)

    # NumPy, SciPy and Pillow let other threads run while they compute.
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, range(len(images)))))


def _strength(name: str, severity: int) -> float:
    if not 1 <= severity <= NUM_SEVERITIES:
        raise ConfigError(
            f"`severity` must be in 1..{NUM_SEVERITIES}. Received: severity={severity}."
        )
    return STRENGTHS[name][severity - 1]


def _filter(image: Pictures, kernel: npt.NDArray[np.float64]) -> Pictures:
    """Returns a picture filtered by a kernel of odd sides, mirrored beyond its border."""
    reach = kernel.shape[0] // 2
    margins = ((reach, reach), (reach, reach), (0, 0))
    padded = np.pad(image.astype(np.float32), margins, mode="symmetric")
    weights = (kernel / kernel.sum()).astype(np.float32)[..., None]
    return _to_uint8(scipy.signal.oaconvolve(padded, weights, mode="valid", axes=(0, 1)))


def _to_uint8(image: npt.NDArray[np.floating]) -> Pictures:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
