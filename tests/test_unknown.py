from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from conftest import run_here
from PIL import Image

from skincnn.config import Config, EvaluateConfig
from skincnn.inference.logit_adjustment import adjust_tables
from skincnn.inference.ood import IMAGES_PER_SET, OOD_SETS, score_unknown
from skincnn.inference.predictions import read_predictions
from skincnn.reporting.report_text import MADE_UNKNOWN, way_name

CONFIG = Config(evaluate=EvaluateConfig(num_bootstrap=200))


def test_the_report_says_what_the_photographs_are() -> None:
    photos = sklearn.datasets.load_sample_images().images
    assert len(photos) == 2
    assert f"{IMAGES_PER_SET} pieces of two photographs" in MADE_UNKNOWN


def make_table(distances: np.ndarray) -> pd.DataFrame:
    lesions = [f"l{n // 2}" for n in range(len(distances))]
    images = [f"i{n:04d}" for n in range(len(distances))]
    return pd.DataFrame({"image_id": images, "lesion_id": lesions, "distance": distances})


def test_the_threshold_is_fixed_on_validation_and_the_shares_are_counted() -> None:
    rng = np.random.default_rng(0)
    predictions = {
        "val": make_table(rng.normal(-5, 1, 400)),
        "test": make_table(rng.normal(-4.5, 1, 300)),
    }
    unknown = pd.DataFrame(
        {
            "set": ["far"] * 40 + ["near"] * 60,
            "distance": np.concatenate([rng.normal(5, 1, 40), rng.normal(-4, 1, 60)]),
        }
    )
    found = score_unknown(predictions, unknown, CONFIG)
    assert sum(predictions["val"]["distance"] > found["threshold"]) == 20  # of 400
    test = predictions["test"]["distance"].to_numpy()
    refused = found["splits"]["test"]["refused"]
    assert refused["value"] == pytest.approx(np.mean(test > found["threshold"]), abs=1e-6)
    assert refused["low"] < refused["value"] < refused["high"]
    assert set(found["splits"]) == {"test"}
    far, near = found["sets"]
    assert (far["name"], far["num_images"], far["refused"], far["auc"]) == ("far", 40, 1, 1)
    distances = unknown["distance"][40:].to_numpy()
    assert near["refused"] == pytest.approx(
        np.mean(distances > found["threshold"]), abs=1e-6
    )
    pairs = np.mean(distances[:, None] > test)
    assert near["auc"] == pytest.approx(pairs, abs=1e-6)


def test_a_run_is_asked_about_pictures_of_all_kinds(
    run: tuple[Path, object], data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    plain = read_predictions(workdir / "predictions/test.csv")
    folder = tmp_path / "cats" / "below"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (40, 30), (number, 200, 0)).save(folder / f"{number}.PNG")
    (folder / "notes.txt").write_text("no picture")
    done = run_here(
        "evaluate.py",
        workdir,
        *("--data-dir", data_dir, "--ood-dir", tmp_path / "cats"),
        *("--tta", "d4", "augment", "--num-views", 2, "--logit-adjustment"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((workdir / "report.json").read_text())
    counts = {found["name"]: found["num_images"] for found in report["unknown"]["sets"]}
    assert counts == {**dict.fromkeys(OOD_SETS, IMAGES_PER_SET), "cats": 3}
    variants = report["variants"]
    names = [variant["name"] for variant in variants]
    adjusted = ["adjusted", "d4_adjusted", "augment_adjusted"]
    assert names == ["d4", "augment", *adjusted]
    for variant in variants:
        name = variant["name"]
        table = read_predictions(workdir / f"predictions/test_{name}.csv")
        accuracy = (
            table.filter(like="probability_").to_numpy().argmax(axis=1)
            == table["label"].astype("category").cat.codes
        ).mean()
        value = variant["metrics"]["accuracy"]["value"]
        assert value == pytest.approx(accuracy, abs=1e-6)
        before = report["splits"]["test"]["metrics"]["accuracy"]["value"]
        gained = variant["differences"]["accuracy"]["value"]
        assert gained == pytest.approx(value - before, abs=2e-6)
        assert table["image_id"].equals(plain["image_id"])
        views = "" if name == "adjusted" else "2 views, "
        assert f"\n{views}{way_name(variant)} (test), " in done.stdout
    # Adjusted by what validation chose, and by nothing else.
    metadata = json.loads((workdir / "metadata.json").read_text())
    counts = metadata["class_counts"]
    columns = [f"probability_{name}" for name in counts]
    for way, variant in zip(("", "_d4", "_augment"), variants[2:], strict=True):
        tables = {
            split: read_predictions(workdir / f"predictions/{split}{way}.csv")
            for split in ("val", "test")
        }
        made, strength = adjust_tables(tables, list(counts), counts)
        assert strength == variant["strength"]
        for split in ("val", "test"):
            table = read_predictions(workdir / f"predictions/{split}{way}_adjusted.csv")
            np.testing.assert_allclose(made[split][columns], table[columns], atol=1e-6)
    # What is not asked again is not forgotten, and what is asked again is.
    flags = ("--tta", "augment", "--num-views", 1)
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir, *flags)
    assert done.returncode == 0, done.stderr
    again = json.loads((workdir / "report.json").read_text())
    assert again["dropped"] == ["the predictions augment_adjusted"]  # of other views
    assert not list(workdir.glob("predictions/*_augment_adjusted.csv"))
    assert [again["variants"][i] for i in range(3)] == [variants[i] for i in (0, 2, 3)]
    [new] = again["variants"][3:]
    assert (new["name"], new["num_views"]) == ("augment", 1)
    assert again["unknown"] == report["unknown"]
    # Views that were asked before are adjusted as well, without being asked again.
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir, "--logit-adjustment")
    assert done.returncode == 0, done.stderr
    last = json.loads((workdir / "report.json").read_text())
    assert last["dropped"] == []
    assert [variant["name"] for variant in last["variants"]] == names
    assert last["variants"][:2] == [variants[0], new]
    for found, before in zip(last["variants"][2:4], variants[2:4], strict=True):
        assert found["sha256"] == before["sha256"]
    assert last["variants"][4]["num_views"] == 1
    assert last["variants"][4]["cost"] == new["cost"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ood-dir", "empty"], 2, "contains no image. Expected files ending in .jpg"),
        (["--ood-dir", "broken"], 3, "broken.jpg cannot be decoded as an image"),
        (["--ood-dir", "noise"], 2, "'noise' is the name of built-in images"),
        (["--tta", "d4", "--num-views", "9"], 2, "--num-views must be at most 8"),
        (["--tta", "augment", "--num-views", "0"], 2, "--num-views must be 1 or more"),
        (["--split", "fold_8"], 2, "fold_8, on which choices were made: it is val"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    arguments: list[str],
    code: int,
    message: str,
    run: tuple[Path, object],
    data_dir: Path,
    tmp_path: Path,
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    before = (workdir / "report.json").read_bytes()
    for name in ("empty", "noise", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "broken.jpg").write_text("<html>")
    flags = [
        tmp_path / flag if flag in ("empty", "noise", "broken") else flag
        for flag in arguments
    ]
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir, *flags)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (workdir / "report.json").read_bytes() == before
