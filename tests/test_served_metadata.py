"""Clinical metadata in the graph of an export and in the command predict.py."""

from __future__ import annotations

import subprocess
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import run_here
from source_files import jpeg
from web_models import RULE, make_model, predict_lengths

from skincnn.clinical_metadata import (
    CLINICAL_COLUMNS,
    VOCABULARIES,
    encode_clinical_metadata,
)
from skincnn.serving.decision import explain_rule
from skincnn.serving.saved_model import METADATA_SIGNATURE, Predictions, encode_in_graph

WORDS = [*VOCABULARIES["sex"], " Male", "FEMALE\t"]
SITES = [*VOCABULARIES["localization"], " Unknown ", "_"]
SITES += [site.replace(" ", "__").title() + " " for site in VOCABULARIES["localization"]]
AGES = [np.nan, 0.0, 0.5, 35.0, 101.0, 120.0]


def as_inputs(table: pd.DataFrame) -> list[tf.Tensor]:
    return [tf.constant(table[spec.name], spec.dtype) for spec in METADATA_SIGNATURE]


def test_the_graph_encodes_as_training_does() -> None:
    """Compares all combinations of ages, sexes and sites, in any spelling."""
    assert tuple(spec.name for spec in METADATA_SIGNATURE) == CLINICAL_COLUMNS
    rows = pd.MultiIndex.from_product([AGES, WORDS, SITES], names=CLINICAL_COLUMNS)
    table = rows.to_frame(index=False)
    in_graph = tf.function(encode_in_graph, input_signature=METADATA_SIGNATURE)
    encoded = in_graph(*as_inputs(table))
    assert encoded.dtype == tf.float32
    np.testing.assert_array_equal(encoded, encode_clinical_metadata(table))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("age", -1.0, r"age must be a number of years in 0\.\.120"),
        ("age", 121.0, r"age must be a number of years in 0\.\.120"),
        ("age", np.inf, r"age must be a number of years in 0\.\.120"),
        ("sex", "mal", "sex must be one of .*female, "),
        ("localization", "knee", "localization must be one of .*head/neck"),
    ],
)
def test_an_invalid_value_is_rejected(
    column: str, value: float | str, message: str
) -> None:
    """The message shows the invalid value and no other value of the batch."""
    table = pd.DataFrame({"age": [5.0], "sex": ["male"], "localization": ["back"]})
    table = pd.concat([table] * 9 + [table.assign(**{column: [value]})])
    in_graph = tf.function(encode_in_graph, input_signature=METADATA_SIGNATURE)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as caught:
        in_graph(*as_inputs(table))
    text = value if isinstance(value, str) else f"{value:g}"
    assert f"[{text}]" in str(caught.value).partition("Received:")[2].splitlines()[0]


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[dict[Hashable, object]]:
    """The clinical metadata that predict.py passes to a model without a network."""
    rows: list[dict[Hashable, object]] = []

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        rows.extend(metadata.to_dict("records"))
        return predict_lengths([b"x"] * len(contents), metadata)

    model = make_model(predict, clinical_metadata=True).predictor
    monkeypatch.setattr("skincnn.serving.predictor.load_predictor", lambda path: model)
    return rows


def predict_images(folder: Path, table: str) -> subprocess.CompletedProcess[str]:
    """Runs predict.py on p0.jpg and p1.jpg, with a table of clinical metadata."""
    for number in range(2):
        (folder / f"p{number}.jpg").write_bytes(jpeg(number))
    (folder / "table.csv").write_text(f"image_id,age,sex,localization\n{table}")
    flags = ("--clinical-metadata", folder / "table.csv")
    return run_here("predict.py", "model", folder / "p0.jpg", folder / "p1.jpg", *flags)


@pytest.mark.parametrize("names", [("p0", "p1"), ("P0", "P1"), ("a/p0.JPG", "p1.png")])
def test_rows_are_found_by_the_name_of_the_file(
    names: Sequence[str],
    received: list[dict[Hashable, object]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    done = predict_images(folder, f"{names[0]},85,M,Torso\n{names[1]},20,F,back\n")
    assert (done.returncode, done.stderr) == (0, describe_point())
    assert received == [
        {"age": 85.0, "sex": "male", "localization": "trunk"},
        {"age": 20.0, "sex": "female", "localization": "back"},
    ]


def describe_point() -> str:
    return f"refer        {explain_rule(RULE)}\n"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("x0,85,M,back\nx1,20,F,back\n", "has no row for any of the 2 image(s)"),
        ("p0,85,M,back\np1,20,fem,back\n", "row 3: 'fem'"),
        ("p0,121,M,back\np1,20,F,back\n", "row 2: '121'"),
        ("p0,85,M,knee\np1,20,F,back\n", "row 2: 'knee'"),
    ],
)
def test_a_table_that_cannot_be_used_is_rejected_before_the_model_runs(
    table: str, message: str, received: list[dict[Hashable, object]], tmp_path: Path
) -> None:
    done = predict_images(tmp_path, table)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not received
    assert not done.stdout


def test_images_without_a_row_are_counted(
    received: list[dict[Hashable, object]], tmp_path: Path
) -> None:
    done = predict_images(tmp_path, "p0,85,M,back\n")
    assert done.returncode == 0
    assert "note: " in done.stderr
    assert "has rows for 1 of 2 images." in done.stderr
    assert received[1]["sex"] == "unknown"
