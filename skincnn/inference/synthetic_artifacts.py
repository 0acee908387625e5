"""Synthetic artifacts on images: hairs, a ruler, bubbles in the immersion gel.

Hairs and the marks of rulers are drawn with Pillow at a higher resolution; bubbles are
computed from the distance of each pixel to a center. Lengths are fractions of the shorter
side, so that artifacts have the same relative size on all images, except that thin lines
have a minimum width in pixels. `hairs`, `ruler` and `bubbles` return a new image of the
same shape. With the same random numbers, a larger count adds hairs or bubbles to those of a
smaller count.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

ImageArray = npt.NDArray[np.uint8]
"""An image, [height, width, 3] in 0..255."""
Mask = npt.NDArray[np.floating[Any]]
"""Opacity of each pixel, [height, width] in 0..1."""
OVERSAMPLING = 4
"""Factor by which the canvas for hairs and rulers is larger than the image."""
HAIR_POINTS = 24


def hairs(image: ImageArray, count: int, rng: np.random.Generator) -> ImageArray:
    """Draws `count` curved hairs that taper towards their tips.

    All hairs have the same color, between black and dark blond, and similar directions. The
    augmentation `hair`, which is off by default, draws by default up to 6 hairs of another
    shape.
    """
    height, width, _ = image.shape
    canvas = Image.new("L", (OVERSAMPLING * width, OVERSAMPLING * height))
    draw = ImageDraw.Draw(canvas)
    darkness = rng.uniform(12, 80)
    color = darkness * np.array([1.0, *rng.uniform((0.75, 0.5), (0.95, 0.8))])
    direction = rng.uniform(0, 2 * math.pi)
    for _ in range(count):
        outline = _hair(direction, rng) * min(height, width)
        center = rng.uniform(0, 1, 2) * (width, height)
        points = (outline + center) * OVERSAMPLING
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return _blend(image, color, 0.9 * _shrink(canvas))


def _hair(direction: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Returns the outline of a hair, [2 * HAIR_POINTS, 2], as coordinates (x, y).

    They are relative to the middle of the hair, in units of the shorter side of the image.
    """
    length, half_width = rng.uniform(0.35, 1.1), rng.uniform(0.0018, 0.0036)
    bend, wave, phase = rng.normal(0, 0.9), rng.normal(0, 0.25), rng.uniform(0, 6)
    along = np.linspace(0, 1, HAIR_POINTS)
    heading = direction + rng.normal(0, 0.5) + bend * along**2
    heading += wave * np.sin(5 * along + phase)
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / HAIR_POINTS
    path = np.cumsum(steps, axis=0)
    path -= path[HAIR_POINTS // 2]
    sideways = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    offset = sideways * (half_width * (1 - 0.8 * along**2))[:, None]
    return np.concatenate([path + offset, (path - offset)[::-1]])


def ruler(image: ImageArray, breadth: float, rng: np.random.Generator) -> ImageArray:
    """Draws a white ruler along one of the four borders.

    `breadth` is the width of the ruler as a fraction of the shorter side. The marks are one
    millimeter apart, with 16 to 26 marks along the shorter side. Every tenth mark has a
    number. The augmentation `ruler`, which is off by default, draws only marks.
    """
    border = int(rng.integers(4))
    spacing, start = 1 / rng.uniform(16, 26), rng.uniform(0, 1)
    plastic = rng.uniform(215, 245) * np.array([1.0, 0.99, 0.96])
    rotated = np.rot90(image, border).copy()
    height, width, _ = rotated.shape
    side = OVERSAMPLING * min(height, width)
    canvas = Image.new("L", (OVERSAMPLING * width, OVERSAMPLING * height))
    band = breadth * side
    _draw_marks(ImageDraw.Draw(canvas), spacing * side, start, band, canvas.width)
    rows = np.arange(height)[:, None] + np.zeros((1, width))
    cover = np.clip(breadth * min(height, width) - rows, 0, 1).astype(np.float32)
    rotated = _blend(rotated, plastic, 0.85 * cover)
    rotated = _blend(rotated, np.full(3, 25.0), 0.9 * cover * _shrink(canvas))
    return np.ascontiguousarray(np.rot90(rotated, -border))


def _draw_marks(
    draw: ImageDraw.ImageDraw, spacing: float, start: float, band: float, width: int
) -> None:
    """Draws the marks and numbers of a ruler along the top border.

    `start` is the offset of the ruler's zero to the left of the canvas, in centimeters. The
    other lengths are in pixels; `band` is the width of the ruler, `width` of the canvas.
    """
    font = ImageFont.load_default(size=max(1.0, 0.4 * band))
    thickness = max(2, round(0.14 * spacing))
    for mark in range(math.ceil(width / spacing) + 11):
        x = (mark - 10 * start) * spacing
        length = {0: 0.5, 5: 0.4}.get(mark % 10, 0.26) * band
        draw.line([(x, band - length), (x, band)], fill=255, width=thickness)
        if mark % 10 == 0:
            draw.text((x, 0.25 * band), str(mark // 10), fill=255, font=font, anchor="mm")


def bubbles(image: ImageArray, count: int, rng: np.random.Generator) -> ImageArray:
    """Draws `count` air bubbles in the gel, some of them in clusters.

    Each bubble has a dark edge, a bright inner ring that is brighter towards the light, and
    a reflection of the lamp. No training augmentation draws bubbles.
    """
    height, width, _ = image.shape
    side = min(height, width)
    light = rng.uniform(0, 2 * math.pi)
    clusters = rng.uniform(0.1, 0.9, (3, 2))
    dark, bright = (np.zeros((height, width), np.float32) for _ in range(2))
    for _ in range(count):
        isolated, cluster = rng.uniform() < 0.4, clusters[rng.integers(3)]
        anywhere, nearby = rng.uniform(0, 1, 2), cluster + rng.normal(0, 0.09, 2)
        radius = 0.012 * math.exp(rng.uniform(0, 1) ** 1.5 * 1.8) * side
        center = np.clip(anywhere if isolated else nearby, 0, 1) * (height, width)
        _add_bubble(dark, bright, center, radius, light)
    shaded = image * (1 - dark)[..., None]
    return _blend(shaded, np.array([255.0, 255.0, 250.0]), bright)


def _add_bubble(dark: Mask, bright: Mask, center: Any, radius: float, light: float) -> None:
    """Adds a bubble to the masks, in place.

    `center` (row, column) and `radius` are in pixels; `light` is an angle in radians.
    """
    reach = math.ceil(radius + 2)
    windows = tuple(
        slice(max(0, int(position) - reach), min(size, int(position) + reach + 1))
        for position, size in zip(center, dark.shape, strict=True)
    )
    rows, columns = np.mgrid[windows].astype(np.float32) + 0.5
    down, right = rows - center[0], columns - center[1]
    distance = np.hypot(down, right)
    facing = (down * math.sin(light) + right * math.cos(light)) / np.maximum(distance, 0.5)
    edge = _ring(distance, radius, max(0.6, 0.07 * radius))
    inner = _ring(distance, 0.78 * radius, max(0.6, 0.12 * radius))
    inside = np.clip(radius - distance, 0, 1)
    spot = (down - 0.45 * radius * math.sin(light), right - 0.45 * radius * math.cos(light))
    lamp = _ring(np.hypot(*spot), 0.0, max(0.5, 0.13 * radius))
    ring = inner * (0.25 + 0.45 * np.clip(facing, 0, 1) ** 2 + 0.2 * np.clip(-facing, 0, 1))
    np.maximum(dark[windows], 0.6 * edge, out=dark[windows])
    shine = np.maximum(inside * (0.12 + ring), 0.9 * inside * lamp)
    np.maximum(bright[windows], np.clip(shine, 0, 1), out=bright[windows])


def _ring(distance: Mask, radius: float, width: float) -> Mask:
    """Returns a soft ring, or a spot if the radius is 0. All lengths are in pixels."""
    return np.exp(-np.square((distance - radius) / width))


def _shrink(canvas: Image.Image) -> Mask:
    """Returns the opacity of each pixel of an oversampled canvas."""
    return np.asarray(canvas.reduce(OVERSAMPLING), np.float32) / 255


def _blend(image: npt.NDArray[Any], color: npt.NDArray[Any], mask: Mask) -> ImageArray:
    """Returns an image blended with a color [3], with `mask` as opacity."""
    opacity = mask[..., None]
    mixed = image * (1 - opacity) + color.astype(np.float32) * opacity
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
