"""The Python API: `import skincnn`."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys
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
from skincnn.errors import ConfigError

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
    for changes, message in (
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
        self.calls.append("begin")

    def on_train_end(self, logs: Any = None) -> None:
        self.calls.append("end")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(f"epoch {epoch} {'val_macro_f1' in logs}")
        self.model.stop_training = epoch == self.last_epoch


def test_callbacks_see_one_training_run_and_can_stop_it(
    tmp_path: Path, data_dir: Path
) -> None:
    recorder = Recorder(last_epoch=2)
    run = skincnn.train(TINY, tmp_path / "run", data_dir, callbacks=[recorder])
    epochs = [f"epoch {number} True" for number in range(3)]
    assert recorder.calls == ["begin", *epochs, "end"]
    assert run.history["epoch"].tolist() == [1, 2, 3]
    assert run.config == TINY
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
        skincnn.train(TINY, tmp_path / "run", data_dir, callbacks=[Broken()])


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
    ):
        same = opened.predict(images)
        np.testing.assert_allclose(same[values], table[values][:3], atol=1e-6)
    assert opened.predict(arrays[0])["predicted_class"][0] == table["predicted_class"][0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image"),
        (3, "Received: int"),
        (np.zeros((2, 2)), r"uint8 \[height, width, 3\].*float64 \[2, 2\]"),
        (pd.DataFrame({"path": ["a"]}), "must have a column `file`.*: path"),
    ],
)
def test_what_is_no_image_is_rejected(
    images: object, message: str, opened: skincnn.Run
) -> None:
    with pytest.raises(ConfigError, match=message):
        opened.predict(images)  # type: ignore[arg-type]


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
    compared = skincnn.compare([copy], variants=True).to_frame()
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
