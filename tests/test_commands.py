"""Commands in messages can be pasted into a shell."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from skincnn.commands import command_line
from skincnn.data.datasets import open_dataset
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result, result_path
from tfds_ham10000 import Builder

SOURCES = [
    path
    for package in ("skincnn", "tfds_ham10000", "tuning")
    for path in sorted((ROOT / package).rglob("*.py"))
]
BEFORE_VALUE = re.compile(r"skincnn [a-z-]+( .*--[a-z-]+)? $")
PATH = re.compile(r"\b(path|folder|workdir|data_dir|manual_dir)\b")
"""The text before a value in a command, and a value that must be quoted."""


@pytest.mark.parametrize("name", ["run", "a b", "e [v2]", "it's", "$HOME", "é"])
def test_arguments_are_quoted(name: str) -> None:
    arguments = shlex.split(command_line("evaluate", Path(name), "--tta", "d4"))
    assert arguments == ["skincnn", "evaluate", name, "--tta", "d4"]


def test_messages_contain_quoted_commands(tmp_path: Path) -> None:
    folder = tmp_path / "e [v2]"
    with pytest.raises(ConfigError, match=r"skincnn evaluate '.*e \[v2\]'"):
        read_result(folder, "test", SplitResult)
    with pytest.raises(DataError, match=r"--data-dir '.*e \[v2\]'$"):
        open_dataset("isic2018", folder)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("test", ""),
        ("val.d4", " --tta d4"),
        ("fold_3.augment_adjusted", " --split fold_3 --tta augment --logit-adjustment"),
        ("test_official.corruptions", " --split test_official --corruptions"),
        ("external.isic2019", " --external isic2019"),
        ("ood", ""),
        ("fold_3.ood.animals", " --split fold_3 --ood-dir DIR"),
    ],
)
def test_the_command_of_a_result_has_its_flags(
    name: str, flags: str, tmp_path: Path
) -> None:
    for fix in ("Run", "Delete the file, then run"):
        with pytest.raises(ConfigError) as caught:
            read_result(tmp_path, name, SplitResult)
        assert str(caught.value).endswith(f" {fix}: skincnn evaluate {tmp_path}{flags}")
        result_path(tmp_path, name).parent.mkdir(exist_ok=True)
        result_path(tmp_path, name).write_text("{")


def test_results_of_several_models_are_not_recreated_by_evaluating_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "run.json").touch()  # an ensemble has no config.json
    with pytest.raises(ConfigError, match="Repeat the command that wrote the directory"):
        read_result(tmp_path, "test", SplitResult)


def test_a_data_directory_one_level_too_deep_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Builder, "is_prepared", lambda self: tmp_path == Path(self.data_dir).parents[2]
    )
    with pytest.raises(DataError, match=rf"not in .*Use --data-dir {tmp_path}$"):
        open_dataset("isic2018", tmp_path / "ham10000")


def test_no_command_contains_an_unquoted_path() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            values = node.values if isinstance(node, ast.JoinedStr) else []
            for before, value in itertools.pairwise(values):
                if isinstance(before, ast.Constant) and BEFORE_VALUE.search(before.value):
                    text = ast.unparse(value)
                    assert "quote" in text or not PATH.search(text), (path, text)
