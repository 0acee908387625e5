"""Predictions as the ISIC challenges of 2018 and 2019 want them handed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from skincnn.errors import ConfigError
from skincnn.inference.predictions import PROBABILITY_PREFIX

COLUMNS = {
    "2018": ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    "2019": ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"),
}
"""In the order of the challenges' ground truth; that of 2019 has `UNK` behind them."""


def find_year(class_names: Sequence[str]) -> str:
    """Returns the challenge whose classes these are.

    Raises:
        ConfigError: There is none.
    """
    names = {name.upper() for name in class_names}
    for year, columns in COLUMNS.items():
        if names == set(columns):
            return year
    raise ConfigError(
        "A submission to ISIC needs the classes of the challenge of 2018 "
        f"({', '.join(COLUMNS['2018'])}) or 2019 ({', '.join(COLUMNS['2019'])}). The model "
        f"has: {', '.join(class_names)}."
    )


def require_unique(image_ids: Iterable[str]) -> None:
    """Checks that no picture would be handed in twice.

    Raises:
        ConfigError: One would, or two of one name.
    """
    twice = [name for name, times in Counter(image_ids).items() if times > 1]
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise ConfigError(
            "--isic-csv must have a row for each picture, named by its file without the "
            f"ending. More than one is named {', '.join(twice[:5])}{more}. Give each once, "
            "and different ones under different names."
        )


def submission(answers: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Returns `image` and a probability for each class in the official order.

    `UNK` of 2019 is 1 where the picture is like none that are known, else 0.

    Args:
        answers: Rows of `predictor.predict` that were read.
        class_names: The names of the model's classes, in order.

    Raises:
        ConfigError: They are those of no challenge.
    """
    year = find_year(class_names)
    columns = {name.upper(): f"{PROBABILITY_PREFIX}{name}" for name in class_names}
    table = pd.DataFrame({"image": answers["image_id"]})
    for name in COLUMNS[year]:
        table[name] = answers[columns[name]]
    if year == "2019":
        table["UNK"] = answers["unknown"].astype(float)
    return table
