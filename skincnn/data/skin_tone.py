"""Skin tone, estimated from the skin at the border of a dermatoscopic image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

ITA = "ita"
"""Column of a predictions table with the angle from `estimate_ita`."""
ATTRIBUTE = "skin tone (estimated)"
"""Name of the attribute whose values are `SKIN_TONES`; its column is `ITA`."""
SKIN_TONES = {
    "dark": -30,
    "brown": 10,
    "tan": 28,
    "intermediate": 41,
    "light": 55,
    "very light": 999,
}
"""Upper limit of the angle of each skin tone in degrees (inclusive).

Del Bino and Bernerd, Variations in skin colour and the biological consequences of
ultraviolet radiation exposure (2013), doi:10.1111/bjd.12529."""
BORDER = 0.1
"""Width of the border, as a share of the width and of the height of the image."""
MIN_LIGHTNESS = 25
"""Pixels with a lower L* (0..100) are assumed to be dark corners or hairs, not skin."""
MIN_SHARE = 0.1
"""Minimum share of the border pixels that must be bright enough for an estimate."""


def typology_angle(lightness: float, yellowness: float) -> float:
    """Returns the individual typology angle in degrees; light skin has large angles.

    The angle is arctan((L* - 50) / b*): Chardon, Cretois and Hourseau, Skin colour typology
    and suntanning pathways (1991), doi:10.1111/j.1467-2494.1991.tb00561.x. It is NaN if b*
    is not positive, because the light was then too blue.

    Args:
        lightness: L* of CIELAB, 0..100.
        yellowness: b* of CIELAB.
    """
    if yellowness <= 0:
        return math.nan
    return math.degrees(math.atan((lightness - 50) / yellowness))


def estimate_ita(images: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Returns the individual typology angle of each image in degrees, [num_images].

    The angle is rounded to one decimal. It is computed from the median L* and b* (CIELAB,
    D65) of the pixels at the border that are not too dark. It is NaN if too many pixels at
    the border are too dark, or if the median b* is not positive. The angle is only an
    estimate: the light and the polarization of dermatoscopes are not calibrated, and a
    large lesion can reach the border.

    Args:
        images: sRGB images, each uint8 [height, width, 3].
    """
    return np.array([_estimate_one(np.asarray(image)) for image in images], float)


def _estimate_one(image: npt.NDArray[Any]) -> float:
    height, width = image.shape[:2]
    rows, columns = (max(1, round(BORDER * size)) for size in (height, width))
    is_border = np.ones((height, width), bool)
    is_border[rows : height - rows, columns : width - columns] = False
    pixels = image[is_border][None].astype(np.float32) / 255
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[0]
    skin = lab[lab[:, 0] >= MIN_LIGHTNESS]
    if len(skin) < MIN_SHARE * len(lab):
        return math.nan
    lightness, _, yellowness = np.median(skin, axis=0).tolist()
    return round(typology_angle(lightness, yellowness), 1)
