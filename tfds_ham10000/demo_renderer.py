"""Rendering of synthetic images that resemble dermatoscopic images.

`APPEARANCES` contains the strength of each dermatoscopic feature for each class. The
appearance of a lesion is a random blend of its class and a similar class, plus noise, so
that classes overlap. The properties of a lesion are drawn from a random generator seeded by
the lesion number. The properties of an image, such as angle, zoom, illumination and hairs,
are drawn from a generator seeded by the numbers of the lesion and of the image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

Array = npt.NDArray[np.floating[Any]]

WIDTH, HEIGHT = 160, 120
SEED = 20180814


@dataclass(frozen=True)
class Appearance:
    """The strength of each feature of a lesion, from 0 to 1."""

    network: float = 0.0  # pigment network, the brown grid of a melanocytic lesion
    irregularity: float = 0.1  # uneven line width and spacing of the network
    globules: float = 0.0  # round brown dots
    cysts: float = 0.0  # milia-like cysts, small bright dots
    vessels: float = 0.0  # branching red lines
    lacunae: float = 0.0  # red to purple round areas
    scale: float = 0.0  # white to yellow flakes
    central_patch: float = 0.0  # white scar-like center
    veil: float = 0.0  # blue-gray blotches
    asymmetry: float = 0.2  # irregular outline and off-center shading
    colors: float = 0.2  # additional colors
    sharpness: float = 0.5  # sharp border
    pigment: float = 0.5  # dark brown
    redness: float = 0.1  # pink (1) instead of brown (0)


APPEARANCES = {
    "akiec": Appearance(
        scale=0.9, redness=0.85, pigment=0.2, asymmetry=0.5, sharpness=0.15, vessels=0.15
    ),
    "bcc": Appearance(
        vessels=1.0, redness=0.7, pigment=0.15, veil=0.35, sharpness=0.35, asymmetry=0.4
    ),
    "bkl": Appearance(
        cysts=1.0, sharpness=1.0, pigment=0.4, globules=0.2, colors=0.4, asymmetry=0.35
    ),
    "df": Appearance(
        central_patch=1.0, network=0.5, pigment=0.3, sharpness=0.15, redness=0.3
    ),
    "mel": Appearance(
        network=0.6,
        irregularity=0.9,
        globules=0.5,
        veil=0.8,
        asymmetry=0.95,
        colors=1.0,
        sharpness=0.6,
        pigment=0.8,
    ),
    "nv": Appearance(network=0.85, globules=0.3, pigment=0.55, asymmetry=0.15),
    "vasc": Appearance(
        lacunae=1.0, redness=0.9, pigment=0.1, sharpness=0.75, asymmetry=0.25
    ),
}
SIMILAR_CLASSES = {
    "akiec": ("bcc", "bkl"),
    "bcc": ("akiec", "nv", "vasc"),
    "bkl": ("mel", "nv", "akiec"),
    "df": ("nv", "bcc"),
    "mel": ("nv", "bkl"),
    "nv": ("mel", "bkl", "df"),
    "vasc": ("bcc", "mel"),
}


def render(dx: str, lesion: int, view: int) -> npt.NDArray[np.uint8]:
    """Returns an image of a lesion, uint8 [120, 160, 3] in 0..255.

    Args:
        dx: The class, a key of `APPEARANCES`.
        lesion: The lesion number, which seeds the features of the lesion and the skin tone.
        view: The number of the image among the images of the lesion. `lesion` and `view`
            seed all other properties, such as angle, zoom, illumination and artifacts.
    """
    rng = np.random.default_rng([SEED, 2, lesion])
    look = _blend(rng, dx)
    skin_tone = rng.beta(1.5, 3.0)  # 0 light, 1 dark
    view_rng = np.random.default_rng([SEED, 3, lesion, view])
    frame = Frame.random(view_rng)
    image = _lesion(_skin(skin_tone, view_rng), look, frame, skin_tone, rng)
    image = _add_acquisition_effects(image, view_rng)
    return np.asarray(np.clip(np.rint(image * 255), 0, 255), np.uint8)


@dataclass(frozen=True)
class Frame:
    """The position of a lesion in an image: rotation, scale and center.

    The origin of the lesion coordinates is the center of the lesion. The border of the
    lesion is at a distance of about 1 from it.
    """

    angle: float  # rotation in radians
    pixels: float  # pixels per unit of the lesion coordinates
    center: tuple[float, float]  # x and y in pixels

    @classmethod
    def random(cls, rng: np.random.Generator) -> Frame:
        """Returns a random frame, centered near the center of the image."""
        return cls(
            angle=rng.uniform(0, 2 * np.pi),
            pixels=rng.uniform(0.27, 0.42) * HEIGHT,
            center=(
                WIDTH / 2 + rng.normal(0, 0.04 * WIDTH),
                HEIGHT / 2 + rng.normal(0, 0.04 * HEIGHT),
            ),
        )

    def grid(self) -> tuple[Array, Array]:
        """Returns the lesion coordinates x and y of all pixels, each [120, 160]."""
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
        x, y = columns - self.center[0], rows - self.center[1]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return (cos * x + sin * y) / self.pixels, (cos * y - sin * x) / self.pixels

    def to_pixels(self, points: Array) -> Array:
        """Converts points from lesion to pixel coordinates, both [num_points, 2]."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        rotated = points @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(rotated * self.pixels + np.array(self.center))


def _blend(rng: np.random.Generator, dx: str) -> Appearance:
    """Returns a noisy, random blend of the appearances of a class and a similar class."""
    own = np.array(dataclasses.astuple(APPEARANCES[dx]))
    other = np.array(dataclasses.astuple(APPEARANCES[rng.choice(SIMILAR_CLASSES[dx])]))
    share = 0.7 * rng.beta(1.0, 2.2)
    values = (1 - share) * own + share * other + rng.normal(0, 0.10, own.size)
    return Appearance(*(float(value) for value in np.clip(values, 0, 1)))


def _skin(tone: float, rng: np.random.Generator) -> Array:
    light, dark = np.array([0.89, 0.72, 0.64]), np.array([0.52, 0.36, 0.28])
    image = np.empty((HEIGHT, WIDTH, 3), np.float32)
    image[:] = light + tone * (dark - light) + rng.normal(0, 0.02, 3)
    image *= 1 + 0.03 * _noise(rng, 12)[..., None] + 0.02 * _noise(rng, 1.2)[..., None]
    return image


def _lesion(
    skin: Array, look: Appearance, frame: Frame, tone: float, rng: np.random.Generator
) -> Array:
    x, y = frame.grid()
    inside = _outline(x, y, look, rng)
    brown = np.array([0.60, 0.40, 0.26]) * (1.15 - 0.75 * look.pigment)
    pink = np.array([0.85, 0.50, 0.48]) * (1 - 0.35 * tone)
    base = (1 - look.redness) * brown + look.redness * pink
    offset = rng.normal(0, 0.5 * look.asymmetry, 2)
    shade = 0.85 + 0.3 * np.hypot(x - offset[0], y - offset[1])
    image = _mix(skin, base * shade[..., None], 0.9 * inside)
    image = _blotches(image, look, frame, inside, rng)
    image = _network(image, look, x, y, inside, rng)
    return _structures(image, look, frame, inside, rng)


def _outline(x: Array, y: Array, look: Appearance, rng: np.random.Generator) -> Array:
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    border = np.ones_like(x)
    for wave in range(2, 9):
        size = (0.05 + 0.30 * look.asymmetry) * rng.normal() / wave
        border += size * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    softness = 0.03 + 0.25 * (1 - look.sharpness)
    return np.asarray(1 / (1 + np.exp((radius - border) / softness * 2)))


def _blotches(
    image: Array, look: Appearance, frame: Frame, inside: Array, rng: np.random.Generator
) -> Array:
    """Adds the additional colors and the blue-gray veil as soft patches."""
    palette = np.array(
        [[0.16, 0.10, 0.08], [0.72, 0.50, 0.30], [0.62, 0.26, 0.22], [0.85, 0.78, 0.72]]
    )
    for color, chance in zip(palette, rng.uniform(0, 1, 4), strict=True):
        patch = _discs(frame, rng.normal(0, 0.45, (2, 2)), rng.uniform(0.2, 0.4, 2), 5)
        strength = 0.75 * max(0.0, look.colors - 0.8 * chance)
        image = _mix(image, color, strength * patch * inside)
    veil = _discs(frame, rng.normal(0, 0.4, (2, 2)), rng.uniform(0.25, 0.45, 2), 5)
    return _mix(image, np.array([0.42, 0.46, 0.58]), 0.8 * look.veil * veil * inside)


def _network(
    image: Array,
    look: Appearance,
    x: Array,
    y: Array,
    inside: Array,
    rng: np.random.Generator,
) -> Array:
    """Adds a pigment network by darkening the lines of a warped grid."""
    frequency = rng.uniform(16, 21)
    phases = rng.uniform(0, 2 * np.pi, 4)
    warp = 0.05 + 0.25 * look.irregularity
    u = x + warp * np.sin(3 * y + phases[0]) + 0.5 * warp * np.sin(7 * y + phases[1])
    v = y + warp * np.sin(3 * x + phases[2]) + 0.5 * warp * np.sin(7 * x + phases[3])
    lines = np.maximum(np.cos(frequency * u), np.cos(frequency * v))
    width = 0.65 + 0.45 * look.irregularity * np.sin(2.5 * (x + y) + phases[0])
    grid = np.clip((lines - width) / 0.3, 0, 1)
    return _mix(image, image * 0.45, 0.9 * look.network * grid * inside)


def _structures(
    image: Array, look: Appearance, frame: Frame, inside: Array, rng: np.random.Generator
) -> Array:
    """Adds globules, lacunae, cysts, scale, the central patch and vessels.

    The number of elements of a structure is proportional to its strength, or 0 at low
    strength. Except for vessels, which are last, positions are always drawn for the maximum
    number, so that the strength of a structure does not affect the positions of others.
    """
    layers = (
        # strength, maximum number, spread, radii, blur, color, opacity
        (look.globules, 30, 0.55, (0.035, 0.065), 0.6, (0.22, 0.13, 0.09), 0.75),
        (look.lacunae, 12, 0.42, (0.13, 0.26), 1.0, (0.55, 0.06, 0.16), 0.85),
        (look.cysts, 22, 0.50, (0.035, 0.075), 0.6, (0.98, 0.94, 0.86), 0.85),
        (look.scale, 26, 0.50, (0.05, 0.13), 0.7, (0.96, 0.92, 0.82), 0.70),
        (look.central_patch, 3, 0.08, (0.26, 0.36), 3.0, (0.95, 0.88, 0.85), 0.85),
    )
    for strength, maximum, spread, radii, blur, color, opacity in layers:
        points = rng.normal(0, spread, (maximum, 2))
        sizes = rng.uniform(*radii, maximum)
        count = round(maximum * strength) if strength > 0.12 else 0
        mask = _discs(frame, points[:count], sizes[:count], blur)
        image = _mix(image, np.array(color), opacity * mask * np.sqrt(inside))
    vessels = _branches(look.vessels, frame, rng)
    return _mix(image, np.array([0.62, 0.10, 0.14]), 0.8 * vessels * np.sqrt(inside))


def _branches(strength: float, frame: Frame, rng: np.random.Generator) -> Array:
    """Returns a mask [120, 160], in 0..1, of branching lines from border to center."""
    canvas, draw = _canvas()
    for _ in range(round(6 * strength) if strength > 0.12 else 0):
        start = rng.uniform(0, 2 * np.pi)
        point = 0.9 * np.array([np.cos(start), np.sin(start)])
        heading = start + np.pi + rng.normal(0, 0.4)
        for generation in range(3):
            steps = rng.normal(0, 0.35, 9).cumsum() + heading
            offsets = 0.09 * np.cumsum(np.c_[np.cos(steps), np.sin(steps)], 0)
            path = np.vstack([point, point + offsets])
            pixels = [tuple(2 * p) for p in frame.to_pixels(path)]
            draw.line(pixels, fill=255, width=4 - generation)
            point, heading = path[rng.integers(3, 8)], steps[-1] + rng.choice([-1, 1])
    return _half_size(canvas)


def _discs(frame: Frame, centers: Array, radii: Array, blur: float) -> Array:
    """Returns a blurred mask [120, 160], in 0..1, of discs in lesion coordinates."""
    if len(centers) == 0:
        return np.zeros((HEIGHT, WIDTH), np.float32)
    canvas, draw = _canvas()
    for (x, y), radius in zip(frame.to_pixels(centers) * 2, radii, strict=True):
        size = 2 * radius * frame.pixels
        draw.ellipse((x - size, y - size, x + size, y + size), fill=255)
    return _half_size(canvas, blur)


def _add_acquisition_effects(image: Array, rng: np.random.Generator) -> Array:
    """Adds effects that depend on the image, and not on the lesion.

    These are uneven illumination, a color cast, blur, noise, and sometimes hairs, a ruler
    or a vignette.
    """
    if rng.random() < 0.45:
        hairs = _hairs(rng)
        image = _mix(image, np.full(3, rng.uniform(0.05, 0.3)), 0.85 * hairs)
    if rng.random() < 0.2:
        image = _mix(image, np.full(3, 0.12), 0.8 * _ruler(rng))
    rows, columns = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    slope = rng.normal(0, 0.06, 2)
    light = rng.normal(1, 0.07) + slope[0] * rows + slope[1] * columns
    image = image * light[..., None] * (1 + rng.normal(0, 0.03, 3)).astype(np.float32)
    if rng.random() < 0.35:
        edge = np.hypot(columns * 0.8, rows * 0.8) - rng.uniform(0.82, 0.98)
        image = image * (1 / (1 + np.exp(edge * 25)))[..., None]
    blur = rng.uniform(0, 0.7)
    image = ndimage.gaussian_filter(image, (blur, blur, 0), truncate=3)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(image + 0.012 * noise)


def _hairs(rng: np.random.Generator) -> Array:
    canvas, draw = _canvas()
    for _ in range(rng.integers(2, 12)):
        ends = rng.uniform(-0.1, 1.1, (3, 2)) * (2 * WIDTH, 2 * HEIGHT)
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        draw.line([tuple(p) for p in curve], fill=255, width=int(rng.integers(1, 4)))
    return _half_size(canvas)


def _ruler(rng: np.random.Generator) -> Array:
    canvas, draw = _canvas()
    step = int(rng.integers(8, 14))
    top = bool(rng.random() < 0.5)
    for tick, x in enumerate(range(0, 2 * WIDTH, step)):
        length = 22 if tick % 5 == 0 else 12
        ys = (0, length) if top else (2 * HEIGHT - length, 2 * HEIGHT)
        draw.line([(x, ys[0]), (x, ys[1])], fill=255, width=2)
    return _half_size(canvas)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Returns an empty mask at twice the size of an image, and an object to draw on it."""
    canvas = Image.new("L", (2 * WIDTH, 2 * HEIGHT))
    return canvas, ImageDraw.Draw(canvas)


def _half_size(canvas: Image.Image, blur: float = 0.0) -> Array:
    small = canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    small = small.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(small, np.float32) / 255


def _mix(image: Array, color: Array, opacity: Array) -> Array:
    if not np.any(opacity):
        return image
    weight = np.clip(opacity, 0, 1)[..., None].astype(np.float32)
    return np.asarray(image + weight * (color.astype(np.float32) - image))


def _noise(rng: np.random.Generator, smoothness: float) -> Array:
    """Returns smooth noise [120, 160] with mean about 0 and standard deviation 1.

    `smoothness` is the approximate size of the structures in pixels.
    """
    step = max(1, round(smoothness))  # draw coarse noise at a low resolution
    shape = (-(-HEIGHT // step), -(-WIDTH // step))
    coarse = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
    field = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return np.asarray(field / field.std())
