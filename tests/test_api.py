"""The Python API: `import skincnn`."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import run_here
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, recall_score

import skincnn
from skincnn.api import training
from skincnn.errors import ConfigError
from skincnn.lookup import to_names

TINY = skincnn.preset("quickstart").replace(
    **{
        "data.datasets": ["demo_tiny"],
        "data.image_size": 32,
        "model.backbone": "small_cnn",
        "model.width_multiplier": 0.25,
        "train.epochs": 4,
        "train.progressive_epochs": 2,
        "train.progressive_image_size": 32,
        "evaluate.num_bootstrap": 100,
    }
)


@pytest.fixture(scope="module")
def opened(run: Any, data_dir: Path) -> skincnn.Run:
    opened = skincnn.load(run[0], data_dir)
    assert isinstance(opened, skincnn.Run)
    return opened


@pytest.fixture(scope="module")
def data(data_dir: Path) -> skincnn.Data:
    return skincnn.load_data(TINY, data_dir)


def test_relative_paths_are_valid_after_a_change_of_directory(
    run: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(run[0], tmp_path / "runs/copy")
    (tmp_path / "data").symlink_to(data_dir)
    monkeypatch.chdir(tmp_path)
    opened = skincnn.load("runs/copy", "data")
    data = skincnn.load_data(TINY, "data")
    assert (opened.path, repr(opened)) == (Path("runs/copy"), "Run('runs/copy')")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = (copy / "predictions/test.csv").read_bytes()
    (copy / "predictions/test.csv").unlink()
    opened.evaluate()
    assert (copy / "predictions/test.csv").read_bytes() == before
    assert opened.path == copy
    assert opened.report() == copy / "report.html"
    assert len(data.test.images) == len(data.test.table)
    assert not list(Path().iterdir())
    monkeypatch.chdir(tmp_path)
    assert opened.path == Path("runs/copy")


def test_importing_the_package_imports_no_other() -> None:
    code = (
        "import sys, skincnn; dir(skincnn); print(sorted(set(sys.modules) & "
        "{'tensorflow', 'keras', 'numpy', 'pandas', 'pydantic', 'skincnn.api'}))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "[]"


def test_all_public_names_exist_and_are_documented() -> None:
    for name in skincnn.__all__:
        assert getattr(skincnn, name).__doc__, name
    assert set(skincnn.__all__) < set(dir(skincnn))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        skincnn.trian  # noqa: B018


@pytest.mark.parametrize("name", ["config", "presets", "metrics", "metrics.bootstrap"])
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"skincnn.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_replace_equals_the_flags_of_a_command() -> None:
    config = skincnn.Config()
    same = config.replace(**{"data.test_folds": [9], "data.train_folds": (1, 2)})
    assert same.data.test_folds == (9,)
    assert same.data.train_folds == (1, 2)
    assert config == skincnn.Config()
    assert config.replace(seed=3).seed == 3
    numbers = {"train.epochs": np.int64(3), "data.test_folds": np.array([9])}
    plain = config.replace(numbers, seed=np.uint8(3))
    assert plain == config.replace(**{"train.epochs": 3, "data.test_folds": [9]}, seed=3)
    assert (type(plain.train.epochs), type(plain.data.test_folds[0])) == (int, int)
    rate = config.replace({"optimizer.learning_rate": np.float32(0.5)})
    assert type(rate.optimizer.learning_rate) is float
    with pytest.raises(ConfigError, match="`changes` must be a dictionary"):
        config.replace("seed")  # type: ignore[arg-type]
    for changes, message in (
        ({"train.epochs": np.float64(3)}, "`train.epochs` must be a valid integer"),
        ({"train.epoch": 3}, "`train.epoch` is not a field.*Did you mean 'epochs'"),
        ({"trian.epochs": 3}, "`trian.epochs` is not a field"),
        ({"train.epochs": "3"}, "`train.epochs` must be a valid integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.replace(**changes)


def test_batches_contain_each_image_once_with_its_label(data: skincnn.Data) -> None:
    split = data.val
    parts = list(split.batches(16).as_numpy_iterator())
    assert np.array_equal(np.concatenate([x for x, _ in parts]), split.images)
    assert np.array_equal(np.concatenate([y for _, y in parts]), split.labels)
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == parts[0][1].dtype == np.int32
    shuffled = split.batches(16, shuffle=True, seed=5)
    orders = [np.concatenate([y for _, y in shuffled.as_numpy_iterator()]) for _ in "ab"]
    assert not np.array_equal(*orders)
    assert np.array_equal(np.sort(orders[0]), np.sort(split.labels))
    assert data.class_names[split.labels[0]] in data.class_names
    assert data.leakage.num_shared_images == 0


def test_the_model_is_a_plain_keras_model(data: skincnn.Data) -> None:
    model = skincnn.build_model(TINY, num_classes=len(data.class_names))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    history = model.fit(data.val.batches(16, shuffle=True), shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.predict(data.val.images[:2], verbose=0).shape == (2, 7)


def test_clinical_metadata_are_part_of_the_batches(data_dir: Path) -> None:
    config = TINY.replace(**{"model.clinical_metadata": True})
    data = skincnn.load_data(config, data_dir)
    inputs, _ = next(data.val.batches(4).as_numpy_iterator())
    assert set(inputs) == {"images", "metadata"}
    model = skincnn.build_model(config, len(data.class_names))
    assert model(inputs).shape == (4, 7)


class Recorder(keras.callbacks.Callback):
    """Records which methods were called, and stops after `last_epoch`."""

    def __init__(self, last_epoch: int):
        super().__init__()
        self.last_epoch = last_epoch
        self.calls: list[str] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.calls.append(f"begin {self.params['epochs']}")

    def on_train_end(self, logs: Any = None) -> None:
        self.calls.append("end")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(f"epoch {epoch} {'val_macro_f1' in logs}")
        self.model.stop_training = epoch == self.last_epoch


def test_callbacks_see_one_training_run_and_can_stop_it(
    tmp_path: Path, data_dir: Path
) -> None:
    recorder = Recorder(last_epoch=2)
    config = TINY.replace(**{"data.image_size": 40})  # two calls to `fit`
    run = skincnn.train(config, tmp_path / "run", data_dir, callbacks=[recorder])
    epochs = [f"epoch {number} True" for number in range(3)]
    assert recorder.calls == ["begin 4", *epochs, "end"]
    assert run.history["epoch"].tolist() == [1, 2, 3]
    assert run.config == config
    assert "not evaluated" in run._repr_html_()
    assert run.model().output_shape == (None, 7)


def test_an_exception_of_a_callback_names_the_callback(
    tmp_path: Path, data_dir: Path
) -> None:
    class Broken(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise KeyError("accuracy")

    message = (
        r"The callback Broken failed in on_epoch_end \(.*test_api.py, line \d+\): KeyError"
    )
    with pytest.raises(ConfigError, match=message):
        skincnn.train(TINY, tmp_path / "run", data_dir, callbacks=Broken())


@pytest.mark.parametrize("num_classes", [("mel", "nv"), 1, 7.0])
def test_a_number_of_classes_that_is_not_valid_is_rejected(num_classes: Any) -> None:
    with pytest.raises(ConfigError, match="`num_classes` must be an integer, 2 or more"):
        skincnn.build_model(TINY, num_classes)


@pytest.mark.parametrize(
    "callbacks", [[keras.callbacks.TerminateOnNaN], [print], "tracker", 5]
)
def test_what_is_no_callback_is_rejected_before_a_run_is_replaced(
    callbacks: Any, run: Any, tmp_path: Path
) -> None:
    import shutil

    workdir = Path(shutil.copytree(run[0], tmp_path / "run"))
    with pytest.raises(ConfigError, match="`callbacks` must be Keras callbacks: objects"):
        skincnn.train(TINY, workdir, overwrite=True, callbacks=callbacks)
    assert (workdir / "run.json").is_file()


@pytest.mark.parametrize("config", ["quickstart", {"seed": 1}, None])
def test_what_is_no_configuration_is_rejected(config: Any, tmp_path: Path) -> None:
    for function in (
        lambda: skincnn.train(config, tmp_path / "run"),
        lambda: skincnn.load_data(config),
        lambda: skincnn.build_model(config, 2),
        lambda: skincnn.show_batch(config),
    ):
        with pytest.raises(ConfigError, match="`config` must be a configuration, such as"):
            function()
    assert not (tmp_path / "run").exists()


def test_files_arrays_and_tables_are_predicted_like_by_the_command(
    opened: skincnn.Run, data_dir: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (3, 40, 50, 3), np.uint8)
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{index}.png")
    (tmp_path / "text.jpg").write_text("no image")
    output = tmp_path / "p.csv"
    done = run_here("predict.py", opened.path, tmp_path, "--output", output)
    assert done.returncode == 3
    expected = pd.read_csv(output)
    table = opened.predict(tmp_path, batch_size=2)
    expected["out_of_distribution"] = expected["out_of_distribution"].astype("boolean")
    pd.testing.assert_frame_equal(
        table.replace("", None), expected, check_dtype=False, rtol=1e-5
    )
    values = [f"probability_{name}" for name in opened.class_names]
    paths = sorted(tmp_path.glob("?.png"))
    for images in (
        arrays,
        list(arrays),
        [Image.open(path) for path in paths],
        pd.DataFrame({"file": map(str, paths)}),
        [str(path) for path in paths],
        np.array([str(path) for path in paths]),
        np.array(paths, object),
        sorted(filter(os.DirEntry.is_file, os.scandir(tmp_path)), key=os.fspath)[:3],
    ):
        same = opened.predict(images)
        np.testing.assert_allclose(same[values], table[values][:3], atol=1e-6)
    assert opened.predict(arrays[0])["predicted_class"][0] == table["predicted_class"][0]


def test_an_opened_image_is_predicted_like_its_file(
    opened: skincnn.Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 65536, (40, 50)).astype(np.uint16)
    Image.fromarray(wide).save(tmp_path / "16_bit.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    upright = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    upright.save(tmp_path / "rotated.png", exif=exif)
    values = [f"probability_{name}" for name in opened.class_names]
    for name in ("16_bit.png", "rotated.png"):
        with Image.open(tmp_path / name) as image:
            table = opened.predict([image, tmp_path / name])
        np.testing.assert_allclose(*table[values].to_numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image"),
        (3, "Received: int"),
        (np.zeros((2, 2)), r"uint8 \[height, width, 3\].*float64 \[2, 2\]"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 \[height, width, 3\].*uint8 \[0, 5, 3\]"),
        ([[np.zeros((2, 2, 3)), np.zeros((3, 2, 3))]], "Received: list, which cannot be"),
        (Image.new("F", (4, 4)), "Received: Image, which cannot be converted .mode F"),
        (pd.DataFrame({"path": ["a"]}), "must have one column `file`.*: path"),
        (
            pd.DataFrame({"file": ["a.jpg", np.nan]}),
            r"Received: nan \(row 1, count",
        ),
        (["a.jpg", None], r"Received: None \(item 1, counted from 0\)"),
        ("imagez/", r"files that exist .* Received: imagez/"),
        (["a/*.jpg", "b/*.jpg"], r"pathlib.Path.glob .* Received: a/\*.jpg, b/\*.jpg"),
        ({"a": "0.jpg"}, "Received: dict"),
        (b"\xff\xd8", r"Received: .*\\xff.*Use PIL.Image.open\(io.BytesIO\(content\)\)"),
        (np.array([b"0.jpg"]), r"Received: .*0.jpg.*os.fsdecode\(name\)"),
    ],
)
def test_what_is_no_image_is_rejected(
    images: object, message: str, opened: skincnn.Run
) -> None:
    with pytest.raises(ConfigError, match=message):
        opened.predict(images)  # type: ignore[arg-type]


def test_a_table_is_not_the_image_to_explain(opened: skincnn.Run) -> None:
    with pytest.raises(ConfigError, match="Received: DataFrame"):
        opened.explain(pd.DataFrame({"file": ["a.jpg"]}))  # type: ignore[arg-type]


def test_a_run_is_pickled_without_its_model(opened: skincnn.Run) -> None:
    image = np.full((40, 50, 3), 200, np.uint8)
    expected = opened.predict(image)
    copy = pickle.loads(pickle.dumps(opened))
    assert repr(copy) == repr(opened)
    pd.testing.assert_frame_equal(copy.predict(image), expected)


def test_data_are_described_in_one_line(data: skincnn.Data) -> None:
    sizes = [len(split.table) for split in (data.train, data.val, data.test)]
    names = "Data(train: {}, val: {}, test: {} images; 7 classes)"
    assert repr(data) == names.format(*sizes)
    assert repr(data.val) == f"Split({sizes[1]} images)"


def test_the_runs_to_compare_are_one_argument(opened: skincnn.Run) -> None:
    paths: Any = {"a": opened.path}
    with pytest.raises(TypeError, match="positional argument"):
        skincnn.compare(opened.path, opened.path)  # type: ignore[misc]
    with pytest.raises(ConfigError, match="`runs` must be run directories or Run objects"):
        skincnn.compare(paths)
    [entry] = (x for x in os.scandir(opened.path.parent) if x.name == opened.path.name)
    expected = skincnn.compare(opened, num_bootstrap=100).to_frame()
    assert skincnn.compare(entry, num_bootstrap=100).to_frame().equals(expected)


def test_messages_name_arguments_of_python(opened: skincnn.Run) -> None:
    for use, message in (
        (lambda: opened.evaluate(tta="D4"), "^`tta` must be one of: d4, augment"),
        (lambda: opened.evaluate(tta="d4", num_views=9), "^`num_views` must be at most 8"),
        (lambda: opened.evaluate(ood_dir="missing"), "^`ood_dir` missing is not"),
        (lambda: opened.export("tflite"), "^`formats` .* must be one of"),
        (lambda: opened.export(tta="augment"), "^`tta` must be d4"),
        (lambda: skincnn.compare(opened, sort="f1"), "^`sort` must be one of"),
        (lambda: skincnn.compare(opened, baseline="d5"), "^`baseline` must be a variant"),
    ):
        with pytest.raises(ConfigError, match=message):
            use()


def test_each_column_of_clinical_metadata_in_a_table_of_images_is_used(
    opened: skincnn.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skincnn.api import model

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    received = []

    def predict(*arguments: Any) -> Any:
        received.append(arguments[3])
        return predict_sources(*arguments)

    predict_sources = model.predict_sources
    monkeypatch.setattr(model, "predict_sources", predict)
    table = pd.DataFrame({"file": [str(tmp_path / "a.png")], "age": [40], "sex": ["F"]})
    opened.predict(table)
    opened.predict(table[["file"]])
    assert received[0].to_numpy().tolist() == [[40.0, "female", "unknown"]]
    assert received[1].iloc[0, 1:].tolist() == ["unknown", "unknown"]
    for metadata in ({"age": [40]}, table[["age", "age", "sex"]]):
        with pytest.raises(ConfigError, match="`clinical_metadata` must"):
            opened.predict(table["file"], metadata)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"`batch_size` must be .*, 1 or more\. .*: 0"):
        opened.predict(table, batch_size=0)


COUNTS: Any = (0, -1, 2.5, "8", True, float("nan"))
NO_NAMES: Any = (5, b"x", ["x", 5])


def test_a_number_that_is_not_valid_is_named(
    data: skincnn.Data, opened: skincnn.Run
) -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    uses: dict[str, Callable[[Any], object]] = {
        "batch_size": data.test.batches,
        "`batch_size` must": lambda value: opened.predict(images, batch_size=value),
        "num_views": lambda value: opened.evaluate(num_views=value),
        "num_bootstrap": lambda x: skincnn.compare(opened, num_bootstrap=x),
        "num_classes": lambda value: skincnn.build_model(TINY, value),
    }
    for name, use in uses.items():
        for value in COUNTS:
            with pytest.raises(ConfigError, match=f"{name}.* an integer, .* or more"):
                use(value)
    with pytest.raises(ConfigError, match="`seed` must be an integer, 0 or more"):
        data.test.batches(shuffle=True, seed=-1)


def test_names_and_callbacks_of_an_iterator_are_kept() -> None:
    names: Any = iter(["d4", "augment"])
    assert to_names(names, "`tta`") == ("d4", "augment")
    wrong: Any
    for wrong in (4, {"d4": 8}):
        with pytest.raises(ConfigError, match="`tta` must be a name or a list"):
            to_names(wrong, "`tta`")
    callback = Recorder(last_epoch=0)
    callbacks: Any = iter([callback])
    assert training._to_callbacks(callbacks) == (callback,)


def test_a_name_that_is_no_text_is_named(opened: skincnn.Run) -> None:
    uses: tuple[Callable[[Any], object], ...] = (
        skincnn.preset,
        lambda value: opened.evaluate(tta=value),
        lambda value: opened.evaluate(splits=value),
        lambda value: opened.export(value),
        lambda value: opened.export(tta=value),
        lambda value: opened.export(operating_point=value),
        lambda value: opened.summary(value),
        lambda value: opened.checklists(value),
        lambda value: skincnn.compare(opened, split=value),
        lambda value: skincnn.compare(opened, baseline=value),
        lambda value: skincnn.compare(opened, sort=value),
        skincnn.compare,
        skincnn.load,
    )
    for use in uses:
        for value in NO_NAMES:
            with pytest.raises(ConfigError, match="Received"):
                use(value)


def test_an_explanation_shows_the_predicted_or_the_given_class(
    opened: skincnn.Run, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    predicted = opened.predict(image)["predicted_class"][0]
    default = np.asarray(opened.explain(image))
    assert np.array_equal(default, np.asarray(opened.explain(image, predicted)))
    others = [name for name in opened.class_names if name != predicted]
    assert any(not np.array_equal(default, opened.explain(image, x)) for x in others)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ConfigError, match=r"text.jpg is unreadable"):
        opened.explain(tmp_path / "text.jpg")
    with pytest.raises(ConfigError, match="must be one of: akiec"):
        opened.explain(image, "melanoma")
    with pytest.raises(ConfigError, match=r"Expected one image\. Received: 2"):
        opened.explain(np.stack([image, image]))
    metadata = pd.DataFrame({"age": [40], "sex": ["male"], "localization": [None]})
    assert np.array_equal(default, opened.explain(image, clinical_metadata=metadata))
    with pytest.raises(ConfigError, match=r"2 row\(s\), one per image. Received 1"):
        opened.predict([image, image], metadata)


def test_an_evaluation_returns_the_result_that_it_writes(
    run: Any, data_dir: Path, tmp_path: Path
) -> None:
    import shutil

    workdir = Path(shutil.copytree(run[0], tmp_path / "run"))
    copy = skincnn.Run(workdir, data_dir)
    result = copy.evaluate(tta="d4", num_views=2, logit_adjustment=True)
    assert (result.split, result.variant) == ("test", "d4_adjusted")
    assert result == copy.results["test.d4_adjusted"]
    stored = json.loads((workdir / "results/test.d4_adjusted.json").read_text())
    assert result.metrics["accuracy"].value == stored["metrics"]["accuracy"]["value"]
    assert copy.report().read_text().startswith("<!doctype html>")
    assert "balanced accuracy" in copy._repr_html_()
    text = str(result)
    assert text == repr(result)
    assert len(text.splitlines()) < 12
    assert f"  {result.metrics['accuracy']}  accuracy" in text
    assert f"  {result.targets['melanoma'].auc}  melanoma AUC" in text
    assert "\n| run | macro F1 |" in repr(skincnn.compare([copy]))
    predictions = copy.predictions()
    compared = skincnn.compare(copy, variants=True).to_frame()
    assert compared.equals(skincnn.compare(workdir, variants=True).to_frame())
    assert {path.stem for path in copy.checklists("tripod-ai")} == {"tripod-ai"}
    with pytest.raises(ConfigError, match=r"must be one of.* Received: .litert16"):
        copy.export("litert16")
    with pytest.raises(ConfigError, match=r"split must be one of.* Received: fold_10"):
        copy.evaluate(splits="fold_10")
    row = compared.set_index("run").loc["run"]
    assert row["accuracy"] == (
        predictions["label"]
        == predictions.filter(like="probability_").idxmax(axis=1).str[12:]
    ).mean().round(6)


def test_scores_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    y_true = rng.integers(0, 3, 200)
    y_prob = rng.dirichlet(np.ones(3), 200)
    y_pred = y_prob.argmax(axis=1)
    score = skincnn.metrics.bootstrap_ci(y_true, y_prob)
    assert score.value == pytest.approx(balanced_accuracy_score(y_true, y_pred), abs=1e-6)
    assert score.low < score.value < score.high
    groups = np.arange(200) // 4
    wider = skincnn.metrics.bootstrap_ci(
        np.repeat(y_true[:50], 4), np.repeat(y_prob[:50], 4, axis=0), groups=groups
    )
    assert wider.high - wider.low > 1.5 * (score.high - score.low)
    recall = skincnn.metrics.bootstrap_ci(y_true, y_prob, "recall", label=2)
    expected = recall_score(y_true, y_pred, average=None)[2]
    assert recall.value == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ConfigError, match="must be one of"):
        skincnn.metrics.bootstrap_ci(y_true, y_prob, "recall")
    with pytest.raises(ConfigError, match="at least one label"):
        skincnn.metrics.bootstrap_ci([], [])
    for label in (-1, 3):
        with pytest.raises(ConfigError, match=r"`label` must be in 0\.\.2"):
            skincnn.metrics.bootstrap_ci(y_true, y_prob, "recall", label=label)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_prob": [0, 1, 1]}, r"Received: \[3\] and \[3\]"),
        ({"y_prob": [[0.5, 0.5]]}, r"Received: \[3\] and \[1, 2\]"),
        ({"y_prob": [[np.nan, 0.5]] * 3}, "`y_prob` must contain probabilities"),
        ({"y_prob": [[3.0, -2.0]] * 3}, "`y_prob` must contain probabilities"),
        ({"y_prob": [["a", "b"]] * 3}, "`y_prob` must contain probabilities"),
        ({"y_true": [1, 2, 0]}, r"`y_true` must contain integers in 0\.\.1"),
        ({"y_true": ["a", "b", "a"]}, r"`y_true` must contain integers in 0\.\.1"),
        ({"groups": ["a", None, "b"]}, "1 missing"),
        ({"groups": ["a", "b"]}, "`groups` must contain an ID for each image"),
        ({"num_resamples": 0}, "`num_resamples` must be an integer, 1 or more"),
        ({"num_resamples": 2.5}, "`num_resamples` must be an integer, 1 or more"),
        ({"seed": -1}, "`seed` must be an integer, 0 or more"),
        ({"confidence": "95"}, "`confidence` must be between 0 and 1"),
        ({"metric": "recall", "label": True}, r"`label` must be in 0\.\.1"),
        ({"metric": 5}, "must be one of: .* Received: 5"),
        ({"confidence": 95}, "`confidence` must be between 0 and 1"),
    ],
)
def test_invalid_predictions_have_no_score(changes: Any, message: str) -> None:
    arguments = {"y_true": [0, 1, 1], "y_prob": [[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]]}
    assert skincnn.metrics.bootstrap_ci(**arguments, num_resamples=100).value == 0.75
    with pytest.raises(ConfigError, match=message):
        skincnn.metrics.bootstrap_ci(**{**arguments, **changes})
