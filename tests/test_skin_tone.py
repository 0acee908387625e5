"""The estimated skin tone, and subgroups by skin tone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms
from report_runs import TABLES
from run_dirs import score_test

from skincnn.data.characteristics import UNKNOWN, subgroup_values
from skincnn.data.skin_tone import ATTRIBUTE, ITA, estimate_ita, typology_angle
from skincnn.inference.predictions import as_written

SKIN = np.array([(241, 194, 175), (198, 134, 102), (141, 85, 36), (90, 56, 37)], np.uint8)


def plain(color: np.ndarray) -> np.ndarray:
    return np.broadcast_to(color, (60, 80, 3)).copy()


def test_the_angle_is_that_of_the_cielab_color_of_pillow() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 6500)
    convert = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    converted = ImageCms.applyTransform(Image.fromarray(SKIN[None]), convert)
    assert converted is not None
    channels = np.asarray(converted)[0].astype(float)
    expected = [
        typology_angle(100 * lightness / 255, (b + 128) % 256 - 128)
        for lightness, _, b in channels
    ]
    # The Lab colors of Pillow are rounded to 8 bits and adapted to D50.
    angles = estimate_ita(map(plain, SKIN))
    assert angles == pytest.approx(expected, abs=4)
    assert (np.diff(angles) < 0).all()  # from light to dark skin


def test_lesion_hairs_and_dark_corners_do_not_change_the_angle() -> None:
    image = plain(SKIN[1])
    [expected] = estimate_ita([image])
    image[10:50, 12:68] = (60, 30, 20)  # lesion
    image[:, ::9] = (20, 15, 10)  # hairs
    image[:12, :15] = image[-12:, -15:] = 0  # corners
    assert estimate_ita([image]) == pytest.approx([expected])


def test_without_visible_skin_the_angle_is_unknown() -> None:
    assert np.isnan(estimate_ita([np.zeros((20, 20, 3), np.uint8)])).all()


def test_the_angle_has_the_sign_of_the_formula() -> None:
    assert typology_angle(60, 10) == pytest.approx(45)
    assert typology_angle(40, 10) == pytest.approx(-45)
    assert np.isnan(typology_angle(60, 0))


def test_skin_tones_have_the_limits_of_del_bino() -> None:
    angles = pd.Series([56, 55, 41, 28, 10, -30, np.nan], name=ITA)
    assert subgroup_values(angles).astype(str).tolist() == [
        "very light",
        "light",
        "intermediate",
        "tan",
        "brown",
        "dark",
        UNKNOWN,
    ]


def test_skin_tones_are_subgroups() -> None:
    angles = np.random.default_rng(0).uniform(0, 70, len(TABLES["test"]))
    result = score_test({**TABLES, "test": TABLES["test"].assign(**{ITA: angles})})
    groups = [group for group in result.subgroups if group.attribute == ATTRIBUTE]
    values = [group.value for group in groups]
    assert values == ["brown", "tan", "intermediate", "light", "very light"]
    assert groups[0].num_images == (angles <= 10).sum()
    assert sum(group.num_images for group in groups) == len(angles)


def test_recorded_skin_types_are_subgroups() -> None:
    types = np.resize(["I-II", "III-IV", "V-VI", "unknown"], len(TABLES["test"]))
    result = score_test({**TABLES, "test": TABLES["test"].assign(skin_type=types)})
    groups = {
        group.value: group.num_images
        for group in result.subgroups
        if group.attribute == "Fitzpatrick skin type"
    }
    assert list(groups) == ["I-II", "III-IV", "V-VI", UNKNOWN]
    assert sum(groups.values()) == len(types)


def test_an_unknown_angle_is_written_and_read() -> None:
    angles = np.where(np.arange(len(TABLES["test"])) < 3, np.nan, 30.5)
    table = as_written(TABLES["test"].assign(**{ITA: angles}))
    np.testing.assert_array_equal(table[ITA], angles)
