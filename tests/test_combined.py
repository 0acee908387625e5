"""Several prepared datasets that are used together, and sources that are left out."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Prepare, run_here
from PIL import Image
from source_files import write_folder, write_table

from skincnn.config import NUM_FOLDS, DataConfig
from skincnn.data import combined, datasets, links, pipeline
from skincnn.data.characteristics import DATASET, describe_flow
from skincnn.data.combined import CombinedDataset, class_names, open_datasets
from skincnn.data.leakage import audit
from skincnn.data.links import StoredImages, find_links, merge_groups
from skincnn.data.preprocess import read_image
from skincnn.data.splits import image_folds, make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.inference.predictions import read_predictions
from skincnn.inference.run_dir import read_run_info
from skincnn.reporting.load import load_results
from skincnn.reporting.text.dataset_text import describe_datasets
from tfds_ham10000 import demo

NUM_PATIENTS = 14
NAMES = ("clinic_a", "clinic_b")
FOLDS = range(10)


def texture(seed: int) -> Image.Image:
    """Returns a random image with many local features, 80x60 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 60))


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def build(
    data_dir: Path, name: str, images: Sequence[Image.Image], labels: Sequence[str]
) -> None:
    """Builds a dataset in which each patient has two images, numbered from 0."""
    rows = [
        {"image": f"{i}.jpg", "dx": label, "patient": i // 2, "source": f"{name}{i % 4}"}
        for i, label in enumerate(labels)
    ]
    folder = data_dir.parent / name
    write_folder(folder, {f"{i}.jpg": encode(image) for i, image in enumerate(images)})
    write_table(folder / "labels.csv", rows, tuple(rows[0]))
    datasets.prepare_dataset("table", data_dir, folder, name=name)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets that share two images and a near-duplicate.

    Images 4, 5 and 6 of clinic_b are a copy, a copy and a changed copy of images 0, 9 and
    12 of clinic_a. The labels of clinic_b have other names, and "scar" has no class.
    """
    path = tmp_path_factory.mktemp("combined") / "data"
    first = [texture(seed) for seed in range(2 * NUM_PATIENTS)]
    second = [texture(100 + seed) for seed in range(2 * NUM_PATIENTS)]
    second[4], second[5] = first[0], first[9]
    second[6] = first[12].rotate(8).crop((6, 5, 75, 56))
    labels = ["mel", "nv"] * NUM_PATIENTS
    build(path, "clinic_a", first, labels)
    others = [{"mel": "melanoma", "nv": "mole"}[label] for label in labels]
    others[-2:] = ["scar", "scar"]
    build(path, "clinic_b", second, others)
    (path / "map.json").write_text(json.dumps({"mole": "nv", "scar": None}))
    return path


def open_both(data_dir: Path, names: Sequence[str] = NAMES) -> CombinedDataset:
    maps = [f"clinic_b={data_dir / 'map.json'}"]
    return open_datasets(names, data_dir, maps if names[0] == "clinic_a" else ())


@pytest.fixture(scope="module")
def table(data_dir: Path) -> pd.DataFrame:
    return open_both(data_dir).read_table(FOLDS).set_index("image_id", drop=False)


def test_images_of_both_datasets_have_the_classes_of_the_first(
    data_dir: Path, table: pd.DataFrame
) -> None:
    dataset = open_both(data_dir)
    assert dataset.class_names == ("mel", "nv")
    assert table[DATASET].value_counts().to_dict() == {
        "clinic_a": 2 * NUM_PATIENTS,
        "clinic_b": 2 * NUM_PATIENTS - 4,
    }
    assert (table["image_id"].str.partition("/")[0] == table[DATASET]).all()
    assert (table["patient_id"].str.partition("/")[0] == table[DATASET]).all()
    assert table["sha256"].is_unique
    # Copies in the later dataset are left out, and so are images without a class.
    missing = {f"clinic_b/{i}" for i in (4, 5, 26, 27)}
    assert missing == {f"clinic_b/{i}" for i in range(28)} - set(table["image_id"])
    names = np.array(dataset.class_names)[table["label"]]
    number = table["image_id"].str.partition("/")[2].astype(int)
    assert (names == np.array(["mel", "nv"])[number % 2]).all()


def test_linked_groups_are_one_group_in_the_lowest_of_their_folds(
    data_dir: Path, table: pd.DataFrame
) -> None:
    stored = table["stored_in"].str.removeprefix("fold_").astype(int)
    rows = table[table["patient_id"].isin(["clinic_a/0", "clinic_a/4", "clinic_b/2"])]
    # clinic_b/2 has only the copies, which connect the patients 0 and 4 of clinic_a.
    assert set(rows["patient_id"]) == {"clinic_a/0", "clinic_a/4"}
    near = table[table["patient_id"].isin(["clinic_a/6", "clinic_b/3"])]
    for group in (rows, near):
        assert group["group_id"].nunique() == group["fold"].nunique() == 1
        assert set(group["group_id"]).isdisjoint(table["group_id"].drop(group.index))
    assert set(near["fold"]) == {stored[near.index].min()}
    others = table.drop([*rows.index, *near.index])
    assert (others["fold"] == stored[others.index]).all()
    assert (others["group_id"] == others["patient_id"]).all()


def test_files_and_pixels_are_read_from_where_they_are_stored(
    data_dir: Path, table: pd.DataFrame
) -> None:
    dataset = open_both(data_dir)
    moved = table["stored_in"] != "fold_" + table["fold"].astype(str)
    assert moved.any()
    rows = table.sample(frac=1, random_state=0)
    contents = dataset.read_files(rows)
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    assert digests == rows["sha256"].tolist()
    config = DataConfig(datasets=NAMES, image_size=32)
    images = pipeline.load_images(dataset, rows, config, "disk")
    expected = np.stack([read_image(content, config) for content in contents])
    assert (images == expected).all()
    # A part of the folds contains the same rows.
    folds = sorted(set(table.loc[moved, "fold"]))
    part = dataset.read_table(folds).set_index("image_id", drop=False)
    expected_rows = table[table["fold"].isin(folds)]
    pd.testing.assert_frame_equal(part, expected_rows)


def test_images_that_a_dataset_no_longer_contains_are_an_error(
    data_dir: Path, table: pd.DataFrame
) -> None:
    dataset, rows = open_both(data_dir), table.iloc[:3]
    removed = rows.assign(image_id=["clinic_a/98", "clinic_a/99", rows["image_id"].iloc[2]])
    with pytest.raises(DataError, match=r"clinic_a.* lacks 2 required image.*98\. Delete"):
        dataset.read_files(removed)
    with pytest.raises(DataError, match=r"lacks 3 required image.*use the --data-dir"):
        dataset.read_files(rows.assign(stored_in="validation"))


def test_no_split_separates_a_group_and_the_audit_counts_all_datasets(
    data_dir: Path,
) -> None:
    dataset = open_both(data_dir)
    config = DataConfig(
        datasets=NAMES, train_folds=(0, 1, 2, 3, 4, 5), validation_folds=(6, 7, 8)
    )
    tables = make_splits(dataset, config)
    result = audit(tables, dataset.class_names, may_lack_classes=("val", "test"))
    assert result.num_shared_groups == result.num_shared_images == 0
    assert result.num_shared_patients == 0
    assert sum(result.num_images.values()) == 4 * NUM_PATIENTS - 4
    infos = {info.name: info for info in dataset.describe(tables)}
    assert infos["clinic_b"].num_copies == 2
    assert infos["clinic_b"].labels_without_class == ["scar"]
    assert infos["clinic_a"].num_copies == 0
    for name, info in infos.items():
        assert info.num_stored == 2 * NUM_PATIENTS
        assert info.num_images == {
            split: (rows[DATASET] == name).sum() for split, rows in tables.items()
        }
    flow = describe_flow(dataset, tables, config)
    assert flow.num_stored == 4 * NUM_PATIENTS
    assert sum(flow.unused.values()) == 4
    [reason] = flow.unused
    assert "no class" in reason
    assert "copies" in reason


def test_the_links_are_searched_for_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_both(data_dir).links

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(combined, "find_links", fail)
    assert open_both(data_dir).links == found
    [path] = data_dir.glob("skincnn_links/clinic_a+clinic_b-*.json")
    path.rename(data_dir / "moved")
    with pytest.raises(AssertionError):
        open_both(data_dir).read_table([0])
    (data_dir / "moved").rename(path)
    # A single dataset has no links.
    assert not open_datasets(["clinic_a"], data_dir).links.groups


def test_near_duplicates_with_different_classes_are_listed(data_dir: Path) -> None:
    maps = data_dir.parent / "other.json"
    maps.write_text(json.dumps({"melanoma": "nv", "mole": "nv", "scar": None}))
    dataset = open_datasets(NAMES, data_dir, [f"clinic_b={maps}"])
    assert sorted(dataset.label_conflicts()) == [
        ("clinic_a/0", "clinic_b/4", "mel", "melanoma"),
        ("clinic_a/12", "clinic_b/6", "mel", "melanoma"),
    ]
    # Different labels of the same class are no contradiction.
    assert open_both(data_dir).label_conflicts() == []


def test_a_label_map_can_merge_the_classes_of_a_single_dataset(data_dir: Path) -> None:
    path = data_dir.parent / "merged.json"
    path.write_text(json.dumps({"scar": "mole"}))
    names = class_names(["clinic_b"], data_dir, [f"clinic_b={path}"])
    assert names == ("melanoma", "mole")
    dataset = open_datasets(["clinic_b"], data_dir, [f"clinic_b={path}"])
    plain = open_datasets(["clinic_b"], data_dir)
    assert plain.class_names == ("melanoma", "mole", "scar")
    merged, rows = dataset.read_table(FOLDS), plain.read_table(FOLDS)
    assert merged["label"].tolist() == rows["label"].clip(upper=1).tolist()
    assert merged.drop(columns="label").equals(rows.drop(columns="label"))
    assert not merged["image_id"].str.contains("/").any()
    path.write_text(json.dumps({"*": "any"}))
    with pytest.raises(ConfigError, match=r"two classes or more\. Received: any\."):
        open_datasets(["clinic_b"], data_dir, [f"clinic_b={path}"])


def test_any_other_label_of_the_first_dataset_has_no_default(data_dir: Path) -> None:
    path = data_dir.parent / "any_other.json"
    # By default, nv would have no class: seborrheic keratosis does not contain it.
    path.write_text(json.dumps({"mel": "melanoma", "*": "seborrheic keratosis"}))
    dataset = open_datasets(["clinic_a"], data_dir, [f"clinic_a={path}"])
    assert dataset.class_names == ("melanoma", "seborrheic keratosis")
    assert dataset.parts[0].label_map.classes == {
        "mel": "melanoma",
        "nv": "seborrheic keratosis",
    }
    assert len(dataset.read_table(FOLDS)) == 2 * NUM_PATIENTS


def test_a_label_without_a_class_needs_a_label_map(data_dir: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no known class: mole\..*--data.label-maps clinic_b=FILE"
    ):
        open_datasets(NAMES, data_dir)
    path = data_dir.parent / "wrong.json"
    path.write_text(json.dumps({"mole": "naevus"}))
    with pytest.raises(ConfigError, match=r"clinic_b=FILE: .*Received: 'naevus'"):
        open_datasets(NAMES, data_dir, [f"clinic_b={path}"])
    with pytest.raises(ConfigError, match="cannot be read"):
        open_datasets(NAMES, data_dir, ["clinic_b=none.json"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"datasets": ()}, "one or more different names"),
        ({"datasets": ("a", "a")}, "one or more different names"),
        ({"label_maps": ("b=x.json",)}, "NAME=FILE"),
        ({"datasets": ("a",), "label_maps": ("a",)}, "NAME=FILE"),
        ({"datasets": ("a",), "label_maps": ("a=x", "a=y")}, "NAME=FILE"),
    ],
)
def test_invalid_datasets_are_rejected(
    fields: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**fields)


@pytest.mark.parametrize("source", ["clinic_b", "clinic_a1"])
@pytest.mark.parametrize("split_by", ["lesion", "image"])
def test_a_source_is_tested_and_its_groups_are_not_trained_on(
    source: str, split_by: str, data_dir: Path, table: pd.DataFrame
) -> None:
    dataset = open_both(data_dir)
    config = DataConfig(datasets=NAMES, leave_out=source, split_by=split_by)
    tables = make_splits(dataset, config)
    column = DATASET if source in NAMES else "dataset"
    left_out = table[table[column] == source]
    tested = left_out if split_by == "image" else left_out[left_out["fold"] != 0]
    assert set(tables["test"]["image_id"]) == set(tested["image_id"])
    assert len(tested) > 0
    seen = pd.concat([tables["train"], tables["val"]])
    assert (seen[column] != source).all()
    assert set(seen["group_id"]).isdisjoint(left_out["group_id"])
    if split_by == "lesion":
        folds = table["fold"].isin([*config.train_folds, *config.validation_folds])
        expected = table[folds & ~table["group_id"].isin(left_out["group_id"])]
        assert set(seen["image_id"]) == set(expected["image_id"])
    # The test split alone is the same.
    [(_, alone)] = make_splits(dataset, config, ("test",)).items()
    assert set(alone["image_id"]) == set(tables["test"]["image_id"])


def test_an_unknown_source_and_a_final_test_of_a_source_are_rejected(
    data_dir: Path,
) -> None:
    config = DataConfig(datasets=NAMES, leave_out="clinic_c")
    for names in (("train", "val", "test"), ("train", "val")):
        with pytest.raises(ConfigError, match=r"clinic_a, clinic_a0, .*'clinic_c'"):
            make_splits(open_both(data_dir), config, names)
    with pytest.raises(ConfigError, match=r"data\.leave_out"):
        config.for_final_test()
    everything = replace(config, datasets=("clinic_a",), leave_out="clinic_a")
    tables = make_splits(open_datasets(["clinic_a"], data_dir), everything)
    with pytest.raises(DataError, match="images of every class"):
        audit(tables, ("mel", "nv"), may_lack_classes=("test",))


def test_a_source_without_images_in_the_folds_is_rejected(data_dir: Path) -> None:
    dataset = open_both(data_dir)
    table = dataset.read_table(range(NUM_FOLDS))
    taken = image_folds(table)[table["dataset"] == "clinic_a0"]
    train, val, test, *_ = sorted({*range(NUM_FOLDS)} - {*taken})
    config = DataConfig(
        datasets=NAMES,
        leave_out="clinic_a0",
        split_by="image",
        train_folds=(train,),
        validation_folds=(val,),
        test_folds=(test,),
    )
    with pytest.raises(ConfigError, match="'clinic_a0': the test split would have no"):
        make_splits(dataset, config)


def make_images(name: str, **columns: Sequence[object]) -> pd.DataFrame:
    """Returns four images in different groups and folds, with some columns changed."""
    ids = [f"{name}/{letter}" for letter in "abcd"]
    rows = {"image_id": ids, "group_id": ids, "lesion_id": [""] * 4, "sha256": ids}
    fixed = {"fold": [1, 2, 3, 4], "label": ["nv"] * 4}
    return pd.DataFrame({**rows, **fixed, **columns})


def test_published_ids_connect_datasets_and_official_images_are_kept() -> None:
    lesions = ["HAM_0000001", "HAM_0000002", "7", ""]
    first = make_images("a", lesion_id=lesions)
    second = make_images("b", lesion_id=lesions[::-1], fold=[None, 5, 0, None])
    third = make_images("c", sha256=["a/d", "b/a", "x", "y"])
    third["image_id"] = ["c/a", "c/b", "c/ISIC_0000007_downsampled", "c/d"]
    first.loc[2, "image_id"] = "a/x/ISIC_0000007"
    tables = [first, second, third]
    images = [StoredImages(t, lambda _: iter(()), synthetic=True) for t in tables]
    found = find_links(images)
    assert set(found.itertuples(index=False, name=None)) == {
        ("a/a", "b/d", "lesion_id"),
        ("a/b", "b/c", "lesion_id"),
        ("a/d", "c/a", "file"),
        ("b/a", "c/b", "file"),
        ("a/x/ISIC_0000007", "c/ISIC_0000007_downsampled", "image_id"),
    }
    # The order of the datasets changes neither the groups nor their folds.
    backward = merge_groups(tables[::-1], find_links(images[::-1]))
    merged = merge_groups(tables, found)
    assert backward.groups == merged.groups
    assert set(backward.copies) == {"a/d", "a/x/ISIC_0000007"}
    assert merged.copies == {
        "c/a": "a/d",
        "c/b": "b/a",
        "c/ISIC_0000007_downsampled": "a/x/ISIC_0000007",
    }
    groups = {name: (g.group_id, g.fold) for name, g in merged.groups.items()}
    assert groups["a/b"] == groups["b/c"] == ("a/b", 0)
    # The image of b is in an official split, and stays there.
    assert groups["a/a"] == groups["b/d"] == ("a/a", 1)
    assert merged.groups["b/d"].stored_fold is None
    assert groups["b/a"] == groups["c/b"] == ("b/a", 2)


@pytest.mark.slow
def test_two_clinics_are_trained_on_together_and_one_is_left_out(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are those of a demo dataset, divided by lesion."""
    # All synthetic images are similar.
    module = "tfds_ham10000.ham10000_dataset_builder"
    monkeypatch.setattr(f"{module}.find_near_duplicates", lambda *_, **__: [])
    monkeypatch.setattr(links, "find_near_duplicates_between", lambda *_: [])
    records, images = demo.make_dataset(400)
    lesions = sorted({record.lesion_id for record in records})
    data_dir = tmp_path / "built"
    for index, name in enumerate(NAMES):
        chosen = [r for r in records if r.lesion_id in lesions[index::2]]
        rows = [{"image": r.image_id, "dx": r.dx, "lesion_id": r.lesion_id} for r in chosen]
        if index:
            names = {"nv": "nevus", "mel": "melanoma"}
            rows = [{**row, "dx": names.get(row["dx"], row["dx"])} for row in rows]
        folder = tmp_path / name
        files = {f"{r.image_id}.jpg": images.read(r.image_id) for r in chosen}
        write_folder(folder, files)
        write_table(folder / "labels.csv", rows, tuple(rows[0]))
        flags = ("--name", name, "--manual-dir", folder)
        done = prepare("table", data_dir, *flags)
        assert done.returncode == 0, done.stderr
    settings = (
        "--data.datasets clinic_a clinic_b --data.image-size 32 --model.backbone small_cnn "
        "--model.width-multiplier 0.25 --train.epochs 1 --evaluate.num-bootstrap 100"
    ).split()
    workdir = tmp_path / "both"
    flags = ("--workdir", workdir, "--data-dir", data_dir, *settings)
    done = run_here("train.py", *flags)
    assert done.returncode == 0, done.stderr
    results = load_results(workdir)
    sources = {g.value for g in results.headline.subgroups if g.attribute == "dataset"}
    assert sources == set(NAMES)
    sentences = describe_datasets(results.info)
    assert "melanoma is melanoma (mel)" in sentences[1]
    page, card = ((workdir / x).read_text() for x in ("report.html", "README.md"))
    for sentence in sentences:
        assert sentence in done.stdout
        assert sentence in page
        assert sentence in card
    workdir = tmp_path / "left_out"
    flags = ("--workdir", workdir, "--data-dir", data_dir, *settings)
    done = run_here("train.py", *flags, "--data.leave-out", "clinic_b")
    assert done.returncode == 0, done.stderr
    assert "The source clinic_b was left out" in (workdir / "report.html").read_text()
    assert "test split (source clinic_b)" in done.stdout
    test = read_predictions(workdir / "predictions/test.csv")
    assert set(test[DATASET]) == {"clinic_b"}
    assert len(test) > 100
    assert read_run_info(workdir).leave_out == "clinic_b"
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir, "--split", "fold_9")
    assert done.returncode == 0, done.stderr
    internal = read_predictions(workdir / "predictions/fold_9.csv")
    assert set(internal[DATASET]) == {"clinic_a"}
    assert load_results(workdir, "fold_9").headline.leakage.num_leaky_images == 0
    done = run_here("train.py", *flags, "--data.leave-out", "clinic_b", "--folds", 3)
    assert done.returncode == 2
    assert "--folds cannot be used with --data.leave-out" in done.stderr
