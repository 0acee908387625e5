"""Every type of record is read as it was written, and invalid files are rejected."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from run_dirs import make_cost, make_info, make_table

from skincnn.config import Config, EvaluateConfig, StageConfig, TrainConfig
from skincnn.data.leakage import SplitLeakage
from skincnn.errors import ConfigError
from skincnn.evaluation import aggregate, results, robustness
from skincnn.evaluation.aggregate import MemberScores, MembersResult
from skincnn.evaluation.results import (
    OodResult,
    OodSet,
    OodSplit,
)
from skincnn.evaluation.robustness import (
    CorruptionResult,
    CorruptionRow,
    CorruptionScores,
)
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference import run_dir
from skincnn.inference.run_dir import Member
from skincnn.metrics.bootstrap import Estimate
from skincnn.records import Record, read_record, to_json, write_record

FIX = "Recreate it."
ESTIMATE = Estimate(0.1 + 0.2, 0.1, 1 / 3)
UNKNOWN = Estimate(None, None, None)


def make_split_result() -> Record:
    tables = {split: make_table(split, 0.7, num_images=60) for split in ("val", "test")}
    tables["test"] = tables["test"].query("label != 'nv'").assign(sex="female")
    as_is = InferenceVariant("", tables, make_cost(1))
    adjusted = InferenceVariant("adjusted", tables, make_cost(1), 0.25)
    stored_in = {"val": "fold 8", "test": "fold 9"}
    leakage = {"test": SplitLeakage(1, 2, None, 3, 4)}
    config = EvaluateConfig(num_bootstrap=100)
    _, scores = score_variants([as_is, adjusted], stored_in, leakage, config)
    return scores["test.adjusted"]


def make_members_info() -> Record:
    stages = (StageConfig(trainable_blocks=-1, epochs=1, rate=0.5),)
    config = Config(train=TrainConfig(scenario="staged", stages=stages))
    member = Member(name="a", config=config, audit=make_info().audit, best_epoch=None)
    return make_info(kind="ensemble", device=None, provenance=None, members=(member,))


CLEAN = CorruptionScores(
    balanced_accuracy=ESTIMATE, melanoma_sensitivity=UNKNOWN, melanoma_specificity=None
)
RECORDS = {
    "run": make_info(),
    "ensemble": make_members_info(),
    "split": make_split_result(),
    "corruptions": CorruptionResult(
        split="test",
        num_images=30,
        clean=CLEAN,
        rows=(CorruptionRow(name="blur", severity=5, scores=CLEAN, difference=ESTIMATE),),
        trained=("blur", "zoom"),
    ),
    "ood": OodResult(
        limit=1.7,
        min_rejected=0.5,
        is_on=True,
        accepted_validation=0.95,
        splits={"test": OodSplit(num_images=30, rejected=ESTIMATE)},
        sets=(OodSet(name="noise", num_images=48, rejected=1.0, auc=0.99),),
    ),
    "members": MembersResult(
        split="test",
        members=(MemberScores(name="a", metrics={"ece": ESTIMATE}, differences={}),),
    ),
}


def test_records_has_an_example_of_each_type() -> None:
    types = {
        value
        for module in (aggregate, results, robustness, run_dir)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Record) and value is not Record
    }
    assert types == {type(record) for record in RECORDS.values()}


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> Record:
    return RECORDS[request.param]


def write_values(path: Path, values: object) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_a_record_equals_what_was_written(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.json"
    write_record(path, record)
    assert read_record(path, type(record), FIX) == record
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]
    values = json.loads(path.read_text())
    assert next(iter(values)) == "schema_version"
    assert values == to_json(record)
    assert "NaN" not in path.read_text()


def test_a_record_cannot_be_changed(record: Record) -> None:
    name = next(iter(type(record).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, name, None)


def require_one_line(path: Path, record: Record, *expected: str) -> None:
    """Checks that an error names file, cause and fix on one line."""
    with pytest.raises(ConfigError) as caught:
        read_record(path, type(record), FIX)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(FIX)
    assert "\n" not in message
    for text in expected:
        assert text in message, message


def test_an_unknown_field_is_rejected(record: Record, tmp_path: Path) -> None:
    path = write_values(tmp_path / "x.json", {**to_json(record), "extra": "no\nfield"})
    require_one_line(
        path, record, "`extra`: Extra inputs are not permitted", r"'no\nfield'"
    )


def test_a_missing_field_is_rejected(record: Record, tmp_path: Path) -> None:
    values = to_json(record)
    required = [n for n, field in type(record).model_fields.items() if field.is_required()]
    for name in required:
        rest = {key: value for key, value in values.items() if key != name}
        path = write_values(tmp_path / "x.json", rest)
        require_one_line(path, record, f"`{name}`: Field required.")


@pytest.mark.parametrize("version", [None, 0, 9, "1"])
def test_another_schema_version_is_rejected(
    version: object, record: Record, tmp_path: Path
) -> None:
    path = write_values(
        tmp_path / "x.json", {**to_json(record), "schema_version": version, "new": 1}
    )
    expected = (
        "has the format of a different version of skincnn. Expected schema_version "
        f"{record.SCHEMA}. Received: {version!r}."
    )
    require_one_line(path, record, expected)


def test_a_field_of_another_type_is_rejected(tmp_path: Path) -> None:
    values: dict[str, Any] = to_json(RECORDS["split"])
    values["metrics"]["accuracy"]["value"] = "high"
    path = write_values(tmp_path / "x.json", values)
    require_one_line(
        path, RECORDS["split"], "`metrics.accuracy.value`", "Received: 'high'."
    )


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("split", ("cost",)),
        ("split", ("metrics", "accuracy")),
        ("split", ("leakage",)),
        ("run", ("audit",)),
        ("ensemble", ("members", 0, "config", "data")),
    ],
)
def test_an_unknown_field_of_a_part_is_rejected(
    name: str, path: tuple[str | int, ...], tmp_path: Path
) -> None:
    values: Any = to_json(RECORDS[name])
    part = values
    for key in path:
        part = part[key]
    part["extra"] = 1
    file = write_values(tmp_path / "x.json", values)
    require_one_line(file, RECORDS[name], "extra")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ('{"schema_version": 1', "cannot be read"),
        ("[]", "must contain a JSON object. Received: list."),
        ("[" * 200_000, "cannot be read: maximum recursion depth exceeded"),
        ("null", "must contain a JSON object. Received: NoneType."),
    ],
)
def test_a_file_without_a_record_is_rejected(
    content: str, message: str, record: Record, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    require_one_line(path, record, message)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_record_in_the_encoding_of_an_editor_is_read(
    encoding: str, record: Record, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(to_json(record), ensure_ascii=False), encoding)
    assert read_record(path, type(record), FIX) == record


def test_a_missing_file_is_rejected(record: Record, tmp_path: Path) -> None:
    require_one_line(tmp_path / "x.json", record, "cannot be read", "No such file")


def test_nan_is_not_written(tmp_path: Path) -> None:
    ood = RECORDS["ood"].model_copy(update={"limit": float("nan")})
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(path, ood)
    assert not path.exists()


def test_estimates_keep_their_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_record(path, RECORDS["members"])
    [member] = read_record(path, MembersResult, FIX).members
    assert dataclasses.astuple(member.metrics["ece"]) == (0.1 + 0.2, 0.1, 1 / 3)
