"""What lies between the lens and the skin: hairs, a ruler, bubbles of the immersion gel.

Each is drawn enlarged by Pillow, or from distances, and blended over the picture. Lengths
are in shares of the shorter side, so that pictures of all sizes look alike. A longer row of
hairs or bubbles begins with a shorter one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pictures = npt.NDArray[np.uint8]
"""uint8 in 0..255, [height, width, 3] or [num_images, height, width, 3]."""
Field = npt.NDArray[np.floating[Any]]
"""A share of each pixel, 0..1, [height, width]."""
OVERSAMPLING = 4
"""How much larger lines are drawn than they are shown, to smooth their edges."""
HAIR_POINTS = 24


def draw_hairs(image: Pictures, count: int, rng: np.random.Generator) -> Pictures:
    """Returns a picture under bent hairs that taper to their tips.

    They have one color, from black to dark blond, and a main direction.

    Args:
        image: uint8 [height, width, 3].
        count: How many.
        rng: Draws them.
    """
    height, width, _ = image.shape
    canvas = Image.new("L", (OVERSAMPLING * width, OVERSAMPLING * height))
    draw = ImageDraw.Draw(canvas)
    darkness = rng.uniform(12, 80)
    color = darkness * np.array([1.0, *rng.uniform((0.75, 0.5), (0.95, 0.8))])
    direction = rng.uniform(0, 2 * math.pi)
    for _ in range(count):
        outline = _hair(direction, rng) * min(height, width)
        middle = rng.uniform(0, 1, 2) * (width, height)
        points = (outline + middle) * OVERSAMPLING
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return _blend(image, color, 0.9 * _shrink(canvas))


def _hair(direction: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Returns the outline of a hair about the origin, [2 * points, 2] as x and y.

    Its length and half its width are in shares of the shorter side.
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


def draw_ruler(image: Pictures, breadth: float, rng: np.random.Generator) -> Pictures:
    """Returns a picture with a ruler along one of its four borders.

    A mark stands for a millimetre: the shorter side shows 16 to 26 of them. Each tenth one
    has its number.

    Args:
        image: uint8 [height, width, 3].
        breadth: In shares of the shorter side.
        rng: Draws the border, the scale and where it begins.
    """
    border = int(rng.integers(4))
    spacing, start = 1 / rng.uniform(16, 26), rng.uniform(0, 1)
    plastic = rng.uniform(215, 245) * np.array([1.0, 0.99, 0.96])
    turned = np.rot90(image, border).copy()
    height, width, _ = turned.shape
    side = OVERSAMPLING * min(height, width)
    canvas = Image.new("L", (OVERSAMPLING * width, OVERSAMPLING * height))
    band = breadth * side
    _draw_marks(ImageDraw.Draw(canvas), spacing * side, start, band, canvas.width)
    rows = np.arange(height)[:, None] + np.zeros((1, width))
    cover = np.clip(breadth * min(height, width) - rows, 0, 1).astype(np.float32)
    turned = _blend(turned, plastic, 0.85 * cover)
    turned = _blend(turned, np.full(3, 25.0), 0.9 * cover * _shrink(canvas))
    return np.ascontiguousarray(np.rot90(turned, -border))


def _draw_marks(
    draw: ImageDraw.ImageDraw, spacing: float, start: float, band: float, width: int
) -> None:
    """Draws the marks and numbers of a ruler whose marked edge is `band` from the top.

    Args:
        draw: Where to.
        spacing: Pixels of a millimetre.
        start: Centimetres that lie beyond the left border, 0..1.
        band: The breadth in pixels.
        width: Of the picture, in pixels.
    """
    font = ImageFont.load_default(size=max(1.0, 0.4 * band))
    thickness = max(2, round(0.14 * spacing))
    for mark in range(math.ceil(width / spacing) + 11):
        x = (mark - 10 * start) * spacing
        length = {0: 0.5, 5: 0.4}.get(mark % 10, 0.26) * band
        draw.line([(x, band - length), (x, band)], fill=255, width=thickness)
        if mark % 10 == 0:
            draw.text((x, 0.25 * band), str(mark // 10), fill=255, font=font, anchor="mm")


def draw_bubbles(image: Pictures, count: int, rng: np.random.Generator) -> Pictures:
    """Returns a picture with air bubbles in the gel, some of them in clusters.

    A bubble has a dark edge, a bright ring inside it that is brighter towards the light,
    and the lamp's reflection.

    Args:
        image: uint8 [height, width, 3].
        count: How many.
        rng: Draws them.
    """
    height, width, _ = image.shape
    side = min(height, width)
    light = rng.uniform(0, 2 * math.pi)
    clusters = rng.uniform(0.1, 0.9, (3, 2))
    dark, bright = (np.zeros((height, width), np.float32) for _ in range(2))
    for _ in range(count):
        lonely, cluster = rng.uniform() < 0.4, clusters[rng.integers(3)]
        anywhere, near = rng.uniform(0, 1, 2), cluster + rng.normal(0, 0.09, 2)
        radius = 0.012 * math.exp(rng.uniform(0, 1) ** 1.5 * 1.8) * side
        centre = np.clip(anywhere if lonely else near, 0, 1) * (height, width)
        _add_bubble(dark, bright, centre, radius, light)
    shaded = image * (1 - dark)[..., None]
    return _blend(shaded, np.array([255.0, 255.0, 250.0]), bright)


def _add_bubble(
    dark: Field, bright: Field, centre: Any, radius: float, light: float
) -> None:
    """Deepens two fields where a bubble is dark and bright.

    Args:
        dark: [height, width], changed in place.
        bright: [height, width], changed in place.
        centre: Row and column.
        radius: In pixels.
        light: From where the light comes, as an angle.
    """
    reach = math.ceil(radius + 2)
    windows = tuple(
        slice(max(0, int(middle) - reach), min(size, int(middle) + reach + 1))
        for middle, size in zip(centre, dark.shape, strict=True)
    )
    rows, columns = np.mgrid[windows].astype(np.float32) + 0.5
    down, right = rows - centre[0], columns - centre[1]
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


def _ring(distance: Field, radius: float, width: float) -> Field:
    """Returns a soft ring of that radius and width in pixels, a spot for radius 0."""
    return np.exp(-np.square((distance - radius) / width))


def _shrink(canvas: Image.Image) -> Field:
    """Returns the share of each pixel that is drawn on an enlarged canvas."""
    return np.asarray(canvas.reduce(OVERSAMPLING), np.float32) / 255


def _blend(image: npt.NDArray[Any], color: npt.NDArray[Any], cover: Field) -> Pictures:
    """Returns a picture that a color [3] covers by a share of each pixel."""
    share = cover[..., None]
    mixed = image * (1 - share) + color.astype(np.float32) * share
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
