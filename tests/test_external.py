"""External validation: a run on another dataset, and the overlap audit."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import run_here
from PIL import Image
from run_dirs import make_info
from sklearn import metrics as reference

from skincnn.config import read_config
from skincnn.data.combined import open_datasets
from skincnn.data.datasets import prepare_dataset
from skincnn.data.links import StoredImages, published_ids
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.external.evaluate import (
    ExternalEvaluation,
    ExternalOptions,
    check_prevalences,
    evaluate_external,
    write_external,
)
from skincnn.evaluation.external.overlap import by_origin, find_overlap
from skincnn.evaluation.external.result import ExternalResult, read_external
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.inference.predictions import read_predictions, table_path
from skincnn.metrics.predictive_values import npv_at, ppv_at
from tfds_ham10000.demo_renderer import render
from tfds_ham10000.records import CLASS_NAMES

LABELS = {"akiec": "ACK", "bcc": "BCC", "bkl": "SEK", "mel": "MEL", "nv": "NEV"}
"""Labels of the external dataset by the classes of HAM10000; df and vasc are missing."""
NUM_TRAINED, NUM_NEW = 6, 4
OTHER = "miscellaneous"


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def prepared(
    run: tuple[Path, object], data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run, and a data directory with an external dataset of class folders.

    The dataset has all test images of five classes, some that the model was trained on, new
    images, and images of a class that the model does not have.
    """
    folder = tmp_path_factory.mktemp("external")
    workdir = Path(shutil.copytree(run[0], folder / "run"))
    data = Path(shutil.copytree(data_dir, folder / "data"))
    dataset = open_datasets(["demo_tiny"], data)
    splits = make_splits(dataset, read_config(workdir / "config.json").data)
    names = pd.Series(CLASS_NAMES)

    def write(name: str, content: bytes) -> None:
        path = folder / "manual" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    test = splits["test"].assign(dx=names[splits["test"]["label"]].to_numpy())
    test = test[test["dx"].isin(LABELS)]
    for dx, image_id, content in zip(
        test["dx"], test["image_id"], dataset.read_files(test), strict=True
    ):
        write(f"{LABELS[dx]}/test-{image_id}", content)
    trained = splits["train"].iloc[::20][:NUM_TRAINED]
    for index, content in enumerate(dataset.read_files(trained)):
        write(f"NEV/trained-{index}", content)
    for index in range(NUM_NEW):
        write(f"MEL/new-{index}", jpeg(render("mel", 9000 + index, 0)))
        write(f"{OTHER}/other-{index}", jpeg(render("df", 9100 + index, 0)))
    with pytest.MonkeyPatch.context() as patch:
        # All synthetic images are similar.
        module = "tfds_ham10000.ham10000_dataset_builder"
        patch.setattr(f"{module}.find_near_duplicates", lambda *_, **__: [])
        prepare_dataset("folder", data, folder / "manual")
    return workdir, data


@pytest.fixture(scope="module")
def evaluation(prepared: tuple[Path, Path]) -> ExternalEvaluation:
    workdir, data = prepared
    options = ExternalOptions(dataset="folder", prevalences={"melanoma": 0.02})
    before = read_all(workdir)
    evaluation = evaluate_external(workdir, options, data)
    assert read_all(workdir) == before
    write_external(workdir, evaluation)
    names = {"predictions/external.folder.csv", "results/external.folder.json"}
    assert set(read_all(workdir)) == {*before, *names}
    assert {n: c for n, c in read_all(workdir).items() if n not in names} == before
    return evaluation


def read_all(workdir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def result(evaluation: ExternalEvaluation) -> ExternalResult:
    return evaluation.result


def test_images_that_were_trained_on_are_left_out(evaluation: ExternalEvaluation) -> None:
    table, audit = evaluation.predictions, evaluation.result.overlap
    trained = table[table["image_id"].str.contains("trained")]
    assert trained["left_out"].tolist() == ["file"] * NUM_TRAINED
    assert not table["left_out"][table["image_id"].str.contains("test|new")].any()
    assert audit is not None
    assert audit.counts == {"file": NUM_TRAINED}
    assert not audit.searched
    assert audit.num_test_images == table["image_id"].str.contains("test").sum()


def test_scores_equal_those_of_the_test_table_of_the_run(
    prepared: tuple[Path, Path], result: ExternalResult
) -> None:
    workdir = prepared[0]
    own = read_predictions(table_path(workdir, "test")).set_index("image_id")
    table = read_predictions(table_path(workdir, "external.folder"))
    in_test = table["image_id"].str.extract("test-(.*)", expand=False)
    same = own.loc[in_test.dropna()]
    columns = [f"probability_{name}" for name in CLASS_NAMES]
    shared = table[in_test.notna()]
    np.testing.assert_allclose(shared[columns], same[columns], atol=1e-6)
    np.testing.assert_allclose(shared["distance"], same["distance"], atol=1e-6)
    assert shared["label"].tolist() == same["label"].tolist()
    predicted = np.array(CLASS_NAMES)[table[columns].to_numpy().argmax(axis=1)]
    present = sorted(set(table["label"]))
    expected = reference.recall_score(
        table["label"], predicted, labels=present, average="macro"
    )
    scores = result.scores
    assert scores.metrics["balanced_accuracy"].value == pytest.approx(expected, abs=1e-6)
    assert scores.num_images == len(table) == len(shared) + NUM_NEW
    assert scores.missing_classes == ("df", "vasc")


def test_nothing_is_fitted_to_the_external_images(
    prepared: tuple[Path, Path], result: ExternalResult
) -> None:
    test = read_result(prepared[0], "test", SplitResult)
    scores = result.scores
    assert scores.calibration_map == test.calibration_map
    assert scores.thresholds == test.thresholds
    assert scores.prediction_sets.thresholds == test.prediction_sets.thresholds
    for name, target in scores.targets.items():
        for key, point in target.operating_points.items():
            assert point.threshold == test.targets[name].operating_points[key].threshold
    assert scores.triage is not None
    assert test.triage is not None
    assert scores.triage.threshold == test.triage.threshold
    assert scores.triage.max_distance == test.triage.max_distance


def test_images_of_other_labels_are_counted_but_not_scored(
    evaluation: ExternalEvaluation,
) -> None:
    [other] = evaluation.result.other_labels
    rows = evaluation.predictions.query("original_label == @OTHER")
    columns = [f"probability_{name}" for name in CLASS_NAMES]
    predicted = np.array(CLASS_NAMES)[rows[columns].to_numpy().argmax(axis=1)]
    assert other.predicted == pd.Series(predicted).value_counts().to_dict()
    assert (other.label, other.num_images, other.num_groups) == (OTHER, NUM_NEW, NUM_NEW)
    assert other.referred is not None
    choices = evaluation.result.scores
    calibrated = choices.calibration_map.apply(rows[columns].to_numpy())
    malignant = calibrated[:, [CLASS_NAMES.index(n) for n in ("akiec", "bcc", "mel")]]
    assert choices.triage is not None
    refer = malignant.sum(axis=1) >= choices.triage.threshold
    if choices.triage.max_distance is not None:
        refer |= (rows["distance"] > choices.triage.max_distance).to_numpy()
    assert other.referred.value == pytest.approx(refer.mean())


def test_predictive_values_at_the_chosen_prevalence_follow_from_the_rates(
    result: ExternalResult,
) -> None:
    points = result.scores.targets["melanoma"].operating_points
    rows = {row.point: row.scores for row in result.prevalences}
    assert set(rows) == {key for key, point in points.items() if point.rates}
    for key, scores in rows.items():
        rates = points[key].rates
        both = [np.array(rates[name].value) for name in ("sensitivity", "specificity")]
        assert scores.prevalence == 0.02
        for value, function in ((scores.ppv, ppv_at), (scores.npv, npv_at)):
            expected = float(function(*both, 0.02))
            assert value.value == pytest.approx(expected, abs=1e-5, nan_ok=True)


@pytest.mark.usefixtures("evaluation", "no_figures")
def test_report_and_comparison_read_the_result(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    workdir = prepared[0]
    done = run_here("report.py", workdir)
    assert done.returncode == 0, done.stderr
    html = (workdir / "report.html").read_text()
    assert "External validation" in html
    card = (workdir / "README.md").read_text()
    for text in (html, card):
        assert "validation images: 6 with an identical file." in text
        assert "are also in the test split of this run" in text
        assert "averages are over the other classes" in text
    other = Path(shutil.copytree(workdir, tmp_path / "other"))
    flags = ("--external", "folder", "--num-bootstrap", 100, "--output", tmp_path / "out")
    done = run_here("compare.py", workdir, other, *flags)
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "out/compare.csv")
    [value] = set(frame["balanced_accuracy"].round(5))
    [result] = read_external(workdir)
    assert value == pytest.approx(
        result.scores.metrics["balanced_accuracy"].value, abs=1e-5
    )
    assert frame["command"].str.endswith("--external folder").all()


@pytest.mark.usefixtures("no_figures")
def test_an_unchecked_overlap_needs_a_flag_and_is_stated(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(prepared[0], tmp_path / "run"))
    data = tmp_path / "data"
    (data / "ham10000").mkdir(parents=True)
    (data / "ham10000/folder").symlink_to(prepared[1] / "ham10000/folder")
    # The run claims other training images than those in the data directory.
    info = json.loads((workdir / "run.json").read_text())
    info["data_fingerprint"]["train"] = "0"
    (workdir / "run.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"split train .* differs .*--skip-overlap-audit"):
        evaluate_external(workdir, ExternalOptions(dataset="folder"), prepared[1])
    flags = ("--external", "folder", "--data-dir", data, "--skip-overlap-audit")
    done = run_here("evaluate.py", workdir, *flags)
    assert done.returncode == 0, done.stderr
    [result] = read_external(workdir)
    assert result.overlap is None
    assert "OVERLAP NOT CHECKED" in done.stdout
    for name in ("report.html", "README.md"):
        assert "OVERLAP NOT CHECKED" in (workdir / name).read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--external", "demo_tiny"], "is a dataset that the run was trained on"),
        (["--external", "folder", "--tta", "d4"], "--tta cannot be used with --external"),
        (["--label-map", "map.json"], "--label-map cannot be used without --external"),
        (["--external", "folder", "--prevalence", "mel=0.1"], "Received: mel=0.1"),
        (["--external", "folder", "--prevalence", "melanoma=2"], "Received: melanoma=2.0"),
        (["--external", "folder", "--prevalence", "melanoma"], "Received: melanoma."),
    ],
)
def test_invalid_options_are_rejected(
    prepared: tuple[Path, Path], flags: list[str], message: str
) -> None:
    workdir, data = prepared
    done = run_here("evaluate.py", workdir, "--data-dir", data, *flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("prevalences", [{"melanoma": "0.02"}, {"melanoma": None}, 0.02])
def test_a_prevalence_that_is_no_number_is_rejected(prevalences: Any) -> None:
    with pytest.raises(ConfigError, match=r"must (be TARGET=SHARE|contain a share)"):
        check_prevalences(prevalences, make_info())


def test_a_dataset_without_scored_images_is_an_error(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    workdir, data = prepared
    path = tmp_path / "map.json"
    path.write_text(json.dumps(dict.fromkeys([*LABELS.values(), OTHER])))
    options = ExternalOptions(dataset="folder", label_map=path)
    with pytest.raises(DataError, match=r"No image .* remains"):
        evaluate_external(workdir, options, data)


def test_a_changed_validation_table_is_rejected(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(prepared[0], tmp_path / "run"))
    path = table_path(workdir, "val")
    table = pd.read_csv(path, keep_default_na=False)
    table.iloc[1:].to_csv(path, index=False)
    with pytest.raises(ConfigError, match="has changed since"):
        evaluate_external(workdir, ExternalOptions(dataset="folder"), prepared[1])


def test_damaged_features_are_reported_before_the_slow_audit(
    prepared: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = Path(shutil.copytree(prepared[0], tmp_path / "run"))
    (workdir / "ood.npz").write_bytes(b"")
    monkeypatch.delattr("skincnn.evaluation.external.overlap.find_overlap")
    with pytest.raises(DataError, match=r"ood\.npz is not a valid"):
        evaluate_external(workdir, ExternalOptions(dataset="folder"), prepared[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nv/ISIC_0012653_downsampled", "ISIC_0012653"),
        ("ISIC_0012653", "ISIC_0012653"),
        ("HAM_0000118", "HAM_0000118"),
        ("BCN_0003884", "BCN_0003884"),
        ("MSK4_0011169", "MSK4_0011169"),
        ("IL_6727506", "IL_6727506"),
        ("PAT_1516_1765_530", "PAT_1516_1765_530"),
        ("5e82a45bc5d78bd24ae9202d194423f8", "5e82a45bc5d78bd24ae9202d194423f8"),
        ("IMG_0000001", None),
        ("0012653", None),
        ("MISIC_0012653", None),
    ],
)
def test_only_published_ids_mean_the_same_in_all_datasets(
    text: str, expected: str | None
) -> None:
    [found] = published_ids(pd.Series([text]))
    assert found == expected if expected else pd.isna(found)


def make_images(**columns: list[str]) -> pd.DataFrame:
    """Returns four images, with the given columns changed."""
    names = list("abcd")
    defaults = {"image_id": names, "lesion_id": names, "group_id": names, "sha256": names}
    return pd.DataFrame({**defaults, **columns})


@pytest.mark.parametrize(
    ("external", "trained", "expected"),
    [
        ({}, {}, ["file"] * 4),
        ({"sha256": list("efgh")}, {}, [""] * 4),
        # An image of the lesion of an image that was trained on is left out, too.
        ({"sha256": list("efgd"), "group_id": list("xyzz")}, {}, ["", "", "group", "file"]),
        (
            {"sha256": list("efgh"), "lesion_id": ["HAM_0000001", "IL_0000001", "b", "c"]},
            {"lesion_id": ["HAM_0000001", "HAM_0000002", "b", "c"]},
            ["lesion_id", "", "", ""],
        ),
        (
            {"sha256": list("efgh"), "image_id": ["x/ISIC_0000001", "b", "c", "d"]},
            {"image_id": ["ISIC_0000001_downsampled", "b", "c", "d"]},
            ["image_id", "", "", ""],
        ),
    ],
)
def test_the_audit_finds_each_kind_of_overlap(
    external: Mapping[str, list[str]],
    trained: Mapping[str, list[str]],
    expected: list[str],
) -> None:
    tables = (make_images(**columns) for columns in (external, trained))
    images = (StoredImages(table, lambda _: iter(()), synthetic=True) for table in tables)
    assert find_overlap(*images).tolist() == expected


def make_texture(seed: int) -> np.ndarray:
    """Returns a random image with many local features, uint8 [150, 200, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((200, 150)))


def test_a_changed_copy_of_a_training_image_is_found() -> None:
    files = {"trained": [make_texture(seed) for seed in range(6)]}
    copy = Image.fromarray(files["trained"][3]).rotate(10).crop((20, 15, 180, 135))
    files["external"] = [make_texture(10), np.asarray(copy), make_texture(11)]

    def store(name: str) -> StoredImages:
        ids = [f"{name}-{index}" for index in range(len(files[name]))]
        contents = dict(zip(ids, map(jpeg, files[name]), strict=True))
        table = pd.DataFrame({"image_id": ids, "group_id": ids, "sha256": ids})
        return StoredImages(
            table.assign(lesion_id=""),
            lambda rows: ((x, contents[x]) for x in rows["image_id"]),
            synthetic=False,
        )

    kinds = find_overlap(store("external"), store("trained"))
    assert kinds.tolist() == ["", "near_duplicate", ""]
    # Synthetic training images are not searched, but do not prevent the search.
    files["demo"] = [make_texture(20)]
    trained = [store("trained"), store("demo")]
    parts = [
        SimpleNamespace(
            name=name,
            builder=SimpleNamespace(
                builder_config=SimpleNamespace(synthetic=name == "demo")
            ),
        )
        for name in ("own", "demo")
    ]

    tables = [
        images.table.assign(dataset_name=part.name)
        for images, part in zip(trained, parts, strict=True)
    ]
    dataset: Any = SimpleNamespace(parts=parts, iterate_files=trained[0].files)
    origins = by_origin(dataset, pd.concat(tables))
    assert [(x.synthetic, len(x.table)) for x in origins] == [(False, 6), (True, 1)]
    assert find_overlap(store("external"), *origins).equals(kinds)
