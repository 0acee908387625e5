"""A tiny run of `scripts/train.py`, its results and exports, and invalid input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT, jpeg, read_timeless, run_here
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from test_tensorboard import read_images

from skincnn.classes import HAM10000
from skincnn.cli.train import finish
from skincnn.clinical_metadata import CLINICAL_FEATURES, encode_clinical_metadata
from skincnn.config import Config
from skincnn.data import datasets, pipeline
from skincnn.data.combined import open_datasets
from skincnn.errors import DataError
from skincnn.evaluation.compared_runs import describe_provenance, read_compared_run
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.inference.predictions import read_predictions
from skincnn.inference.provenance import provenance
from skincnn.inference.run_dir import read_run_info
from skincnn.reporting.load import load_results
from skincnn.reporting.parity_result import read_parity
from skincnn.serving.export_info import read_export_info
from skincnn.serving.export_spec import ExportSpec, read_rule
from skincnn.training.tensorboard import draw_confusion_matrix

NAMES = [lesion.name for lesion in HAM10000]
PROBABILITIES = [f"probability_{name}" for name in NAMES]
Run = tuple[Path, "subprocess.CompletedProcess[str]"]
ONE_EPOCH = (
    "--data.image-size 32 --model.backbone small_cnn --model.width-multiplier 0.25 "
    "--train.epochs 1 --evaluate.num-bootstrap 100"
).split()


def test_the_run_directory_is_complete(run: Run) -> None:
    workdir, done = run
    for name in (
        "config.json",
        "run.json",
        "history.csv",
        "model.keras",
        "predictions/val.csv",
        "predictions/test.csv",
        "results/val.json",
        "results/test.json",
        "results/ood.json",
        "results/export.saved_model.json",
        "report.html",
        "README.md",
        "figures/confusion_matrix_test.png",
        "figures/learning_curves.png",
        "export/skincnn/1/saved_model.pb",
        "export/skincnn/1/assets.extra/metadata.json",
    ):
        assert (workdir / name).stat().st_size > 0
    assert list((workdir / "logs").rglob("events.out*"))
    best = read_run_info(workdir).best_epoch
    files = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert files == [f"best-{best:05d}.weights.h5"]
    assert not list(workdir.rglob(".tmp*"))
    assert f"report  {workdir / 'report.html'}" in done.stdout
    assert f"model   {workdir / 'export/skincnn/1'}" in done.stdout
    assert "Epoch 3/3" in done.stdout
    assert done.stdout.count(" - val_balanced_accuracy: ") == 3  # one line per epoch
    assert re.search(r"^Reading images: \d+ img in \d+ s$", done.stderr, re.M)
    assert not {"\r", "\x1b"} & set(done.stdout + done.stderr)
    for line in ("balanced accuracy", "macro F1", "accuracy", "recall"):
        assert line in done.stdout
    config = Config.from_dict(json.loads((workdir / "config.json").read_text()))
    assert (config.data.datasets, config.train.epochs) == (("demo_tiny",), 3)


def test_code_and_hardware_are_recorded(run: Run) -> None:
    recorded = read_run_info(run[0]).provenance
    assert recorded == provenance()
    text = describe_provenance(recorded)
    for name in ("README.md", "report.html"):
        assert text in (run[0] / name).read_text()
    assert read_compared_run(run[0], "test").info.provenance == recorded


def test_the_flow_and_the_training_images_are_recorded(run: Run) -> None:
    info = read_run_info(run[0])
    assert info.flow is not None
    assert info.training_characteristics is not None
    assert info.flow.num_read == sum(info.flow.splits.values())  # demo: every image is used
    assert info.flow.splits == info.audit.num_images
    assert info.training_characteristics.classes == info.class_counts
    assert info.training_characteristics.num_lesions == info.audit.num_lesions["train"]


def test_library_messages_are_not_printed(run: Run) -> None:
    noise = ("WARNING", "Warning", "oneDNN", "cuda", "cuInit", "absl", "Traceback")
    assert not [
        line for line in run[1].stderr.splitlines() if any(n in line for n in noise)
    ]


def test_synthetic_images_are_marked_everywhere(run: Run) -> None:
    workdir, done = run
    assert "SYNTHETIC" in done.stdout
    for name in ("README.md", "report.html"):
        assert "SYNTHETIC images, rendered by code" in (workdir / name).read_text()
    assert read_run_info(workdir).synthetic
    assert read_export_info(workdir / "export/skincnn/1").synthetic
    table = pd.read_csv(workdir / "predictions/test.csv")
    assert (table["dataset"] == "synthetic").all()


def test_predictions_for_synthetic_images_have_a_warning(run: Run, tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(jpeg())
    done = run_here("predict.py", run[0], tmp_path / "image.jpg")
    assert done.returncode == 0, done.stderr
    warning = "warning: the model was trained on SYNTHETIC images only"
    assert done.stderr.count(warning) == 1


def test_the_results_equal_scores_of_the_predictions_table(run: Run) -> None:
    workdir, _ = run
    for split in ("val", "test"):
        table = pd.read_csv(workdir / f"predictions/{split}.csv")
        predicted = np.array(NAMES)[table[PROBABILITIES].to_numpy().argmax(axis=1)]
        result = read_result(workdir, split, SplitResult)
        assert result.num_images == len(table)
        np.testing.assert_allclose(table[PROBABILITIES].sum(axis=1), 1, atol=1e-5)
        expected = confusion_matrix(table["label"], predicted, labels=NAMES)
        np.testing.assert_array_equal(result.confusion_matrix, expected)
        assert result.metrics["balanced_accuracy"].value == pytest.approx(
            balanced_accuracy_score(table["label"], predicted), abs=1e-6
        )
        # Means over classes have no interval: most resamples of few lesions lack a class.
        accuracy = result.metrics["accuracy"]
        assert accuracy.low <= accuracy.value <= accuracy.high


def test_the_best_epoch_on_validation_is_kept(run: Run) -> None:
    workdir, _ = run
    history = pd.read_csv(workdir / "history.csv")
    best = history["val_balanced_accuracy"].max()
    first = int(history.loc[history["val_balanced_accuracy"].idxmax(), "epoch"])
    assert read_run_info(workdir).best_epoch == first
    result = read_result(workdir, "val", SplitResult)
    assert result.metrics["balanced_accuracy"].value == pytest.approx(best, abs=1e-6)
    assert history["epoch"].tolist() == [1, 2, 3]


def test_keras_alone_loads_the_model_which_reproduces_the_predictions(
    run: Run, data_dir: Path
) -> None:
    workdir, _ = run
    code = (
        "import sys, keras; m = keras.saving.load_model(sys.argv[1]);"
        "assert 'skincnn' not in sys.modules; print(m.output_shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(workdir / "model.keras")],
        capture_output=True,
        text=True,
    )
    assert "(None, 7)" in done.stdout, done.stderr
    dataset = open_datasets(["demo_tiny"], data_dir)
    model = keras.saving.load_model(workdir / "model.keras")
    config = Config.from_dict(json.loads((workdir / "config.json").read_text()))
    table = dataset.read_table([9])
    images = pipeline.load_images(dataset, table, config.data)
    logits = model.predict(images, verbose=0)
    table = pd.read_csv(workdir / "predictions/test.csv")
    np.testing.assert_allclose(tf.nn.softmax(logits), table[PROBABILITIES], atol=1e-5)


def test_the_logs_have_training_images_and_confusion_matrices(run: Run) -> None:
    workdir, _ = run
    images = read_images(workdir / "logs" / "images")
    assert images.keys() == {"training_images", "confusion_matrix"}
    # The first epoch uses 32 px.
    assert {step: x.shape for step, x in images["training_images"].items()} == {
        0: (4 * 32, 4 * 32, 3)
    }
    scores = pd.read_csv(workdir / "history.csv")["val_balanced_accuracy"]
    best = [i for i, score in enumerate(scores) if score > max(scores[:i], default=-1)]
    assert list(images["confusion_matrix"]) == best
    # The last image belongs to the weights that are evaluated.
    table = pd.read_csv(workdir / "predictions" / "val.csv")
    predicted = np.array(NAMES)[table[PROBABILITIES].to_numpy().argmax(axis=1)]
    expected = confusion_matrix(table["label"], predicted, labels=NAMES)
    np.testing.assert_array_equal(
        images["confusion_matrix"][best[-1]], draw_confusion_matrix(expected, NAMES)
    )


CLIENT = """
import json, sys
class RejectProject:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("skincnn", "tfds_ham10000"):
            raise ImportError(name)
sys.meta_path.insert(0, RejectProject())
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
rows = json.loads(sys.argv[2])
metadata = {"metadata": tf.constant(rows)} if rows else {}
files = [open(name, "rb").read() for name in sys.argv[3:]]
outputs = model.signatures["serving_default"](image_bytes=tf.constant(files), **metadata)
print(json.dumps({
    key: [v.decode() if isinstance(v, bytes) else v for v in np.ravel(value).tolist()]
    for key, value in outputs.items()
}))
"""


def serve_outside_the_project(
    saved_model: Path,
    images: dict[str, bytes],
    folder: Path,
    metadata: list[list[float]],
) -> dict[str, np.ndarray]:
    """Returns the outputs of a process that has TensorFlow but not this project."""
    paths = []
    for name, content in images.items():
        paths.append(folder / f"{name}.jpg")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        # -I: neither the working directory nor PYTHONPATH is searched.
        [
            *(sys.executable, "-I", "-c", CLIENT, str(saved_model), json.dumps(metadata)),
            *map(str, paths),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)
    count = len(images)
    return {
        key: np.array(value).reshape((count, 7) if len(value) > count else (count,))
        for key, value in outputs.items()
    }


def check_export(
    workdir: Path, data_dir: Path, folder: Path, *, clinical_metadata: bool = False
) -> None:
    """Compares 20 test images, served outside the project, with predictions/test.csv."""
    import tensorflow_datasets as tfds

    config = json.loads((workdir / "config.json").read_text())["data"]
    dataset = datasets.open_dataset(config["datasets"][0], data_dir)
    rows = dataset.as_dataset(
        split=f"fold_{config['test_folds'][0]}",
        decoders={"image": tfds.decode.SkipDecoding()},
    ).take(20)
    images = {row["image_id"].decode(): row["image"] for row in tfds.as_numpy(rows)}
    table = read_predictions(workdir / "predictions/test.csv").set_index("image_id")
    table = table.loc[list(images)]
    saved_model = workdir / "export/skincnn/1"
    metadata = encode_clinical_metadata(table).tolist() if clinical_metadata else []
    outputs = serve_outside_the_project(saved_model, images, folder, metadata)
    expected = table[PROBABILITIES].to_numpy()
    assert np.abs(outputs["uncalibrated_probabilities"] - expected).max() < 1e-3
    rule = read_rule(ExportSpec(workdir=workdir))
    calibrated = rule.calibration_map.apply(expected)
    assert np.abs(outputs["probabilities"] - calibrated).max() < 1e-3
    np.testing.assert_allclose(
        outputs["ood_distance"], table["distance"], rtol=1e-3, atol=1e-6
    )
    assert (outputs["class_names"] == np.array(NAMES)).all()
    predicted = [NAMES[i] for i in expected.argmax(axis=1)]
    assert outputs["predicted_class"].tolist() == predicted
    is_malignant = np.array([lesion.malignant for lesion in HAM10000])
    malignant = calibrated[:, is_malignant].sum(axis=1)
    np.testing.assert_allclose(outputs["malignant_probability"], malignant, atol=1e-3)
    # Rounding cannot change a decision that is half a percent away from its threshold.
    limit = np.inf if rule.max_distance is None else rule.max_distance
    clear = np.abs(table["distance"] / limit - 1) > 0.005
    clear &= np.abs(malignant / rule.threshold - 1) > 0.005
    assert clear.any()
    out_of_distribution = table["distance"] > limit
    refer = out_of_distribution | (malignant >= rule.threshold)
    if rule.max_distance is not None:
        assert (outputs["out_of_distribution"] == out_of_distribution)[clear].all()
    assert (outputs["refer"] == refer)[clear].all()
    assert (outputs["status"] == "ok").all()


def test_the_export_reproduces_the_evaluated_predictions(
    run: Run, data_dir: Path, tmp_path: Path
) -> None:
    check_export(run[0], data_dir, tmp_path)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
def test_a_model_with_clinical_metadata_is_trained_and_served(
    data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    flags = "--data.datasets demo_tiny --model.clinical-metadata True --augment.mix mixup"
    where = ("--workdir", workdir, "--data-dir", data_dir)
    done = run_here("train.py", *where, *ONE_EPOCH, *flags.split())
    assert done.returncode == 0, done.stderr
    (tmp_path / "client").mkdir()
    check_export(workdir, data_dir, tmp_path / "client", clinical_metadata=True)
    info = read_export_info(workdir / "export/skincnn/1")
    assert info.clinical_features == CLINICAL_FEATURES


@pytest.mark.usefixtures("no_figures")
def test_evaluate_reproduces_the_results_and_keeps_those_of_exports(
    run: Run, data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(run[0], workdir)
    for name in ("results/test.json", "report.html", "predictions/test.csv"):
        (workdir / name).unlink()
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    name = "predictions/test.csv"
    assert (workdir / name).read_text() == (run[0] / name).read_text()
    assert read_timeless(workdir) == read_timeless(run[0])
    assert read_parity(workdir) == read_parity(run[0])
    assert "| saved_model, " in (workdir / "README.md").read_text()


def test_a_changed_model_file_is_rejected(run: Run, data_dir: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "copy"
    shutil.copytree(run[0], workdir)
    content = bytearray((workdir / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (workdir / "model.keras").write_bytes(content)
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir)
    assert done.returncode == 3
    assert "was modified after training" in done.stderr


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
def test_overwriting_replaces_the_run_and_keeps_other_files(
    run: Run, data_dir: Path, tmp_path: Path
) -> None:
    """A split by image also reports its leakage."""
    workdir = tmp_path / "copy"
    shutil.copytree(run[0], workdir)
    (workdir / "my notes.txt").write_text("keep")
    flags = (
        "--data.datasets demo_tiny --data.split-by image "
        "--data.one-image-per-lesion evaluation --overwrite"
    ).split()
    where = ("--workdir", workdir, "--data-dir", data_dir)
    done = run_here("train.py", *where, *ONE_EPOCH, *flags)
    assert done.returncode == 0, done.stderr
    assert (workdir / "my notes.txt").read_text() == "keep"
    assert len(pd.read_csv(workdir / "history.csv")) == 1
    assert [p.name for p in (workdir / "export/skincnn").iterdir()] == ["1"]

    results = load_results(workdir)
    share = results.info.audit.share_test_images
    assert 0 < share < 1
    for text in (done.stdout, (workdir / "report.html").read_text()):
        assert "SPLIT BY IMAGE" in text
        assert f"{100 * share:.0f} %" in text
    assert results.headline.num_images == results.headline.num_lesions


def require_silence_on_malignancy(workdir: Path, images: Path) -> None:
    """Checks that no file or output of a run mentions malignant lesions or a referral."""
    checklist = run_here("report.py", workdir, "--checklist", "stard-ai", "tripod-ai")
    assert checklist.returncode == 0, checklist.stderr
    predicted = run_here("predict.py", workdir, images)
    assert predicted.returncode == 0, predicted.stderr
    paths = [
        *(workdir / name for name in ("report.html", "README.md", "export/README.md")),
        *(workdir / "checklists").glob("*.md"),
    ]
    texts = {path.name: path.read_text() for path in paths}
    texts |= {"out": predicted.stdout, "err": predicted.stderr}
    texts["report.html"] = re.sub('data:image[^"]*', "", texts["report.html"])
    for name, text in texts.items():
        for line in text.splitlines():
            said = re.search("malignant.{0,30}(threshold|lesion)|refer(ral|red|s)? ", line)
            none = "malignant lesions |" in line or "refers no image" in line
            assert said is None or none, (name, line)


@pytest.mark.slow
def test_own_images_in_folders_are_trained_evaluated_and_exported(
    tmp_path: Path,
) -> None:
    """Lesions and the malignancy of two classes are unknown, so neither is mentioned."""
    for position, name in enumerate(("0", "Melanoma", "wart")):
        for number in range(24):
            folder = tmp_path / "mine" / ("Train" if number < 20 else "Test") / name
            folder.mkdir(parents=True, exist_ok=True)
            content = jpeg(100 * position + number, (48, 40))
            (folder / f"{number}.jpg").write_bytes(content)
    # Some training images are in the test folder as well.
    for number in range(20, 28):
        content = jpeg(100 + number - 20, (48, 40))
        (tmp_path / f"mine/Test/Melanoma/again {number}.jpg").write_bytes(content)
    where = ("--data-dir", tmp_path / "data")
    built = run_here(
        "prepare_data.py", "--config", "folder", "--manual-dir", tmp_path / "mine", *where
    )
    assert built.returncode == 0, built.stderr
    unknown = "Lesions and patients are not known: only near-duplicates are kept together."
    assert unknown in built.stdout
    workdir = tmp_path / "run"
    flags = ("--data.datasets", "folder", *ONE_EPOCH)
    done = run_here("train.py", "--workdir", workdir, *where, *flags)
    assert done.returncode == 0, done.stderr
    assert unknown in done.stdout
    assert "HAM10000" not in (workdir / "report.html").read_text()
    require_silence_on_malignancy(workdir, tmp_path / "mine/Test/wart")
    table = read_predictions(workdir / "predictions/test.csv")
    assert set(table["label"]) == {"0", "Melanoma", "wart"}
    assert table["age"].isna().all()
    served = tf.saved_model.load(str(workdir / "export/skincnn/1"))
    outputs = served.signatures["serving_default"](image_bytes=tf.constant([jpeg(0)]))
    assert [name.decode() for name in outputs["class_names"].numpy()[0]] == [
        *("0", "Melanoma", "wart")
    ]
    assert not outputs.keys() & {"malignant_probability", "refer"}
    done = run_here("evaluate.py", workdir, *where, "--split", "test_official")
    assert done.returncode == 0, done.stderr
    result = read_result(workdir, "test_official", SplitResult)
    assert result.num_images == 20
    assert len(read_predictions(workdir / "predictions/test_official.csv")) == 20
    leaky = result.leakage.num_leaky_images
    assert 0 < leaky <= 8
    for text in (done.stdout, (workdir / "report.html").read_text()):
        assert f"LEAKAGE: {leaky} of the 20 images" in text
    assert (workdir / "results/test_official.ood.json").exists()
    done = run_here("evaluate.py", workdir, *where, "--split", "fold_1")
    assert done.returncode == 2
    assert "Received: fold_1, which was used for training" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 12])
def test_nothing_is_said_about_malignancy_that_is_not_known(
    num_classes: int, tmp_path: Path
) -> None:
    for number in range(12 * num_classes):
        folder = tmp_path / "mine" / f"group {number % num_classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(number, (48, 40)))
    workdir, where = tmp_path / "run", ("--data-dir", tmp_path / "data")
    source = ("--config", "folder", "--manual-dir", tmp_path / "mine")
    built = run_here("prepare_data.py", *source, *where)
    assert built.returncode == 0, built.stderr
    flags = ("--data.datasets", "folder", "--data.batch-size", "8", *ONE_EPOCH)
    done = run_here("train.py", "--workdir", workdir, *where, *flags)
    assert done.returncode == 0, done.stderr
    done = run_here("evaluate.py", workdir, *where, "--tta", "d4")
    assert done.returncode == 0, done.stderr
    require_silence_on_malignancy(workdir, tmp_path / "mine/group 0")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("nosuch", 2, "PRESET must be one of: quickstart, mobilenet_160"),
        ("cnn --data.datasets isic2018", 3, "skincnn prepare-data --config"),
        ("--data.datasets isic2018x", 2, "Did you mean 'isic2018'"),
        ("--model.backbone resnet51", 2, "`model.backbone` must be one of"),
        ("mobilenet_160 --model.weights no.h5", 2, "no.h5, which is not a file"),
        ("mobilenet_160 --train.scenario finetune", 2, "`train.scenario` must be one of"),
        ("--model.weights nowhere.h5", 2, "`train.scenario` must be from_scratch"),
        ("--config nowhere.json", 2, "nowhere.json"),
        ("mobilenet_160 --config x.json", 2, "cannot be used together"),
        ("--train.monitor val_loss", 2, "`train.monitor` must be one of"),
        ("--data.test-folds 1", 2, "leak"),
        ("--final-test --folds 2", 2, "either --folds or a final test"),
        ("--data.batch-size 1000 --data.datasets demo_tiny", 3, "do not fill"),
        ("--data.imagesize 64", 2, "--data.image-size"),
    ],
)
def test_invalid_input_is_rejected_before_training(
    arguments: str, code: int, message: str, data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    where = ("--workdir", workdir, "--data-dir", data_dir)
    done = run_here("train.py", *arguments.split(), *where)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


def test_other_files_are_never_deleted(tmp_path: Path) -> None:
    figure = tmp_path / "figures" / "thesis.png"
    figure.parent.mkdir()
    figure.write_text("precious")
    for flags in ([], ["--overwrite"]):
        done = run_here("train.py", "--workdir", tmp_path, *flags)
        assert done.returncode == 2, done.stderr
        assert "not a run directory" in done.stderr
    assert figure.read_text() == "precious"


@pytest.mark.parametrize(
    ("file", "workdir", "message"),
    [
        ("run", "run", "is a file"),
        ("run", "run/deep/er", "is a file"),
        ("run/config.json", "run", "not a run directory"),
    ],
)
def test_an_unusable_workdir_is_rejected(
    file: str, workdir: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("precious")
    flags = ("--data.datasets", "demo_tiny", "--workdir", tmp_path / workdir)
    done = run_here("train.py", *flags)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert (tmp_path / file).read_text() == "precious"


def test_the_readme_starts_with_the_two_main_commands() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    assert "make train" in first
    assert "make test" in first


@pytest.mark.usefixtures("no_figures")
def test_a_run_whose_export_is_rejected_has_a_report(run: Run, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(run[0], tmp_path / "run"))
    names = ("report.html", "README.md")
    for name in names:
        (workdir / name).unlink()

    def reject() -> Path:
        raise DataError("the export was rejected")

    with pytest.raises(DataError, match="rejected"):
        finish(workdir, reject)
    assert all((workdir / name).exists() for name in names)
