"""Custom parts: `module:function` in place of the functions of this package."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import random
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from conftest import ROOT
from setups import make_setup

import skincnn
from skincnn.api.rehearsal import rehearse
from skincnn.cli.train import parse
from skincnn.config import AugmentConfig, Config, ImbalanceConfig, OptimizerConfig
from skincnn.errors import ConfigError, DataError
from skincnn.files import sha256
from skincnn.inference.load import load_model
from skincnn.metrics import bootstrap_ci
from skincnn.model.augment import Augmentation
from skincnn.parts import file_name, find_custom, hash_modules
from skincnn.training.callbacks import UserCallbacks, make_callbacks
from skincnn.training.imbalance import find_strategy
from skincnn.training.optimizers import find_optimizer
from skincnn.training.setup import TrainingSetup, check

GUIDE = (ROOT / "docs/guides/extending.md").read_text()
MODULE, MLFLOW, WANDB = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
Write = Callable[..., ModuleType]


def test_an_optimizer_class_has_only_named_arguments() -> None:
    with pytest.raises(ConfigError, match=r"named arguments only.*Received: \(0\.1,\)"):
        find_optimizer("keras.optimizers:Nadam(0.1)")
    cls, arguments = find_optimizer("keras.optimizers:Nadam(beta_1=0.8)")(OptimizerConfig())
    assert (cls, arguments) == (keras.optimizers.Nadam, {"beta_1": 0.8})


def test_equal_callbacks_have_different_names(tmp_path: Path) -> None:
    name = "keras.callbacks:EarlyStopping(monitor='loss', patience=2)"
    config = Config().replace(**{"train.callbacks": [name, name]})
    given = [keras.callbacks.TerminateOnNaN(), keras.callbacks.TerminateOnNaN()]
    callbacks = make_callbacks(config, tmp_path, given)
    expected = [name, f"{name} 2", "TerminateOnNaN", "TerminateOnNaN 2"]
    assert list(callbacks) == expected
    assert list(callbacks.values())[2:] == given


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a user to a directory of `sys.path`, and imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(code: str, name: str = "") -> ModuleType:
        name = name or f"own_{abs(hash(code))}"
        names.append(name)
        (tmp_path / f"{name}.py").write_text(code)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def documented_config() -> Config:
    """Returns the configuration of the command in the guide."""
    [command] = re.findall(r"skincnn train (my_parts:tiny .*?)\n\n", GUIDE, re.DOTALL)
    name, arguments = parse(shlex.split(command.replace("\\\n", "")))
    assert name == "my_parts.tiny"
    return arguments.config.replace(**{"evaluate.num_bootstrap": 100})


def unregister() -> None:
    """Removes the layer of the documented module from Keras, and the module."""
    keras.saving.get_custom_objects().pop("my_parts>Scale", None)
    sys.modules.pop("my_parts", None)
    importlib.invalidate_caches()


def test_the_example_of_each_part_is_trained_evaluated_and_loaded(
    write: Write, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(str(write(MODULE, "my_parts").__file__))
    workdir = tmp_path / "run"
    run = skincnn.train(documented_config(), workdir, data_dir)
    assert run.info.modules == {"my_parts": sha256(path)}
    assert (workdir / "epochs.txt").read_text().split()[::2] == ["0", "1"]
    costs = run.history["val_my_parts:cost"].to_list()
    assert run.info.best_epoch == int(np.argmin(costs)) + 1
    write(MODULE + "\n", "my_parts")
    score = run.evaluate().metrics["my_parts:cost"]
    assert f"{path} has changed since" in capsys.readouterr().err
    table = run.predictions()
    y_prob = table[[f"probability_{name}" for name in run.class_names]].to_numpy()
    y_true = table["label"].map(run.class_names.index)
    expected = bootstrap_ci(y_true, y_prob, "my_parts:cost", num_resamples=100)
    assert score.value == expected.value
    assert score.low is not None
    compared = skincnn.compare([run], sort="my_parts:cost", num_bootstrap=100)
    [[row]] = compared.tables.values()
    assert row.scores["my_parts:cost"].value == score.value
    # As in a new process: the module is imported, because the model has its layers.
    unregister()
    assert load_model(workdir, run.info).output_shape == (None, 7)
    assert f"{path} has changed since" in capsys.readouterr().err
    unregister()
    path.unlink()
    message = "model.keras has layers of the module my_parts: there is no module 'my_parts'"
    with pytest.raises(ConfigError, match=f"{message}.*PYTHONPATH"):
        load_model(workdir, run.info)


@pytest.mark.slow
def test_resuming_gives_the_same_weights_and_requires_the_same_module(
    write: Write, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(MODULE, "my_parts")
    config = documented_config().replace(**{"train.deterministic": True})
    with monkeypatch.context() as patch:  # trying the parts does not change training
        patch.setattr("skincnn.api.training.rehearse", lambda setup: None)
        expected = skincnn.train(config, tmp_path / "at_once", data_dir).model()
    interrupt = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, _: [0][e])
    workdir = tmp_path / "run"
    with pytest.raises(
        ConfigError, match="callback LambdaCallback failed in on_epoch_begin: IndexError"
    ):
        skincnn.train(config, workdir, data_dir, callbacks=[interrupt])
    write(MODULE + "\n", "my_parts")
    with pytest.raises(DataError, match=r"modules.my_parts '\w+' \(now '\w+'\)"):
        skincnn.train(config, workdir, data_dir, resume=True)
    write(MODULE, "my_parts")
    model = skincnn.train(config, workdir, data_dir, resume=True).model()
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


ERRORS = {
    "syntax": ("def part(:", r"cannot be imported \(.*\.py, line 1\): SyntaxError"),
    "import": ("\nimport nowhere", r"imported \(.*\.py, line 2\): ModuleNotFoundError"),
    "missing": (
        "def pert(counts, config): pass",
        r"has no function 'part'\. Its functions and classes: pert\. Did you mean 'pert'",
    ),
    "signature": (
        "def part(counts): pass",
        r"\(.*\.py, line 1\) cannot be called with the arguments \(counts, config\): "
        r"too many positional arguments\. Received: part\(counts\)",
    ),
    "unnamed": (
        "import functools\npart = functools.partial(lambda counts: counts)",
        r"too many positional arguments\. Received: own_unnamed:part\(counts\)",
    ),
    "exception": (
        "def part(counts, config):\n    return f()\ndef f():\n    raise KeyError(3)",
        r"failed \(.*\.py, line 4\): KeyError: 3",
    ),
    "result": (
        "def part(counts, config): return 'text'",
        r"\(.*\.py, line 1\) must return a Plan\. Received: 'text'",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_file_and_the_line(case: str, write: Write, tmp_path: Path) -> None:
    code, message = ERRORS[case]
    (tmp_path / f"own_{case}.py").write_text(code)
    write("", "other")  # Python lists the directory again
    with pytest.raises(ConfigError, match="`imbalance.strategy` own_.*" + message):
        find_strategy(f"own_{case}:part")(np.ones(3, int), ImbalanceConfig())
    sys.modules.pop(f"own_{case}", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.a:f", "no module 'nowhere'.*in the directory that contains nowhere/,"),
        ("keras.nowhere:f", r"no module 'keras.nowhere'.*contains keras/nowhere\.py,"),
        ("sys:f", "the module sys has no function 'f'"),
        ("keras.layers:RandomZom", "no function 'RandomZom'. Did you mean 'RandomZoom'"),
        ("keras.layers:RandomZoom(x)", "must be Python literals"),
        ("keras.layers:", "must be package.module:function"),
        ("keras.layers:RandomZoom(1)(2)", "must be Python literals"),
    ],
)
def test_invalid_names_are_errors(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_custom(name, "`augment.parts`")


@pytest.mark.parametrize(
    ("field", "name", "suggestion"),
    [
        ("augment.parts", ["zom"], "zoom"),
        ("imbalance.strategy", "foca", "focal"),
        ("optimizer.name", "adamm", "adam"),
        ("optimizer.schedule", "cosin", "cosine"),
        ("train.monitor", "acuracy", "accuracy"),
        ("model.backbone", "mobilenet_v4", "mobilenet_v2"),
    ],
)
def test_an_unknown_name_lists_the_valid_names(
    field: str, name: object, suggestion: str
) -> None:
    message = f"`{field}` must be one of:.*Did you mean '{suggestion}'"
    with pytest.raises(ConfigError, match=message):
        check(Config().replace(**{field: name}))
    with pytest.raises(ConfigError, match=r"`train.callbacks` must be a function or class"):
        check(Config().replace(**{"train.callbacks": ["tracker"]}))
    with pytest.raises(ConfigError, match=r"`loss.name` must be a custom"):
        check(Config().replace(**{"loss.name": "focal"}))
    with pytest.raises(ConfigError, match=r"PRESET must be one of:.*'quickstart'"):
        skincnn.preset("quickstar")


NET = """
import keras
def net():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, {layers}(inputs))
"""
LAYER = """
{register}
class Shift(keras.layers.Layer):
    def __init__(self, by=0.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by
    def call(self, x):
        return x[..., :1] + [[[[0.0, self.by]]]]
    {config}
"""
REGISTER = "@keras.saving.register_keras_serializable()"
CONFIG = "def get_config(self): return {**super().get_config(), 'by': self.by}"
CONV = "keras.layers.Conv2D(4, 3)"
NETS = {
    "underscore": (
        NET.format(layers="keras.layers.Conv2D(4, 3, name='_x')"),
        "failed when the untrained model was exported as a SavedModel.*'_x/",
    ),
    "unregistered": (
        NET.format(layers="Shift(2.0)") + LAYER.format(register="", config=CONFIG),
        "failed when the untrained model was loaded again.*register_keras_serializable",
    ),
    "state": (
        NET.format(layers="Shift(2.0)")
        + LAYER.format(
            register=REGISTER,
            config=CONFIG.replace("self.by", "self.by * 10"),
        ),
        "must give the same predictions after the model was saved and loaded",
    ),
    "none": (NET.format(layers=CONV), ""),
}


@pytest.mark.parametrize("case", NETS)
def test_an_own_backbone_that_cannot_be_saved_is_found_before_training(
    case: str, write: Write
) -> None:
    code, message = NETS[case]
    module = write(code)
    config = Config().replace(
        **{
            "model.backbone": f"{module.__name__}:net",
            "model.weights": "none",
            "train.scenario": "from_scratch",
            "data.image_size": 32,
            "data.batch_size": 4,
        }
    )
    setup = make_setup(config, 3, 8, 4)
    states = random.getstate(), np.random.get_state()[1].tolist()
    weights = setup.classifier.get_weights()
    expected = f"`model.backbone` {module.__name__}:net.*{message}"
    with pytest.raises(ConfigError, match=expected) if message else nullcontext() as error:
        rehearse(setup)
    if case == "state":
        pixels = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3))
        logits = np.asarray(setup.classifier(pixels.astype(np.float32)))
        assert f"Expected logits: {logits}. Received" in str(error.value)
    assert states == (random.getstate(), np.random.get_state()[1].tolist())
    for a, b in zip(setup.classifier.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


FAULTS = {
    "plan": (
        "import skincnn.training.imbalance as i, numpy as np\n"
        "def part(counts, config): return i.Plan(np.ones(2, np.float32))",
        {"imbalance.strategy": "part"},
        "`class_weights` must have one finite number for each of the 3 classes",
    ),
    "loss": (
        "def part(): return keras.losses.CategoricalCrossentropy()",
        {"loss.name": "part", "imbalance.strategy": "none"},
        r"`loss.name` own_\w+:part failed for labels of shape \(3,\) and logits of "
        r"shape \(3, 3\)",
    ),
    "weights": (
        "def part(): return keras.losses.SparseCategoricalCrossentropy(from_logits=True)",
        {"loss.name": "part"},
        "must have the argument 'class_weights', which `imbalance.strategy` sets",
    ),
    "focal": (
        "def part(**options): pass",
        {"loss.name": "part", "imbalance.strategy": "focal"},
        "cannot replace the loss focal",
    ),
    "optimizer": (
        "def part(config): return keras.optimizers.SGD(0.1)",
        {"optimizer.name": "part"},
        "must be a Keras optimizer class, or return one and its arguments",
    ),
    "arguments": (
        "def part(config): return keras.optimizers.SGD, {'beta': 3}",
        {"optimizer.name": "part"},
        "`optimizer.name` own.*failed.*beta",
    ),
    "schedule": (
        "class part(keras.optimizers.schedules.LearningRateSchedule):\n"
        "    def __init__(self, *arguments): pass\n"
        "    def __call__(self, step): return keras.ops.cast(step, 'float32') - 1",
        {"optimizer.schedule": "part"},
        "must return finite learning rates >= 0",
    ),
    "metric": (
        "def part(sample): return (sample.y_pred == sample.y_true).mean()",
        {"train.monitor": "part"},
        "must return one number, or one for each row of sample.weights",
    ),
    "augmentation": (
        "def part(images, uniform, config): return images[:, 1:]",
        {"augment.parts": ["part"]},
        r"must return images of the same shape .*\(2, 32, 32, 3\)",
    ),
    "infinity": (
        "def part(images, uniform, config): return images * float('nan')",
        {"augment.parts": ["part"]},
        "must return finite images",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_other_parts_are_found_before_training(case: str, write: Write) -> None:
    code, changes, message = FAULTS[case]
    name = f"{write('import keras' + chr(10) + code).__name__}:part"
    changes = {
        field: [name] if isinstance(value, list) else value.replace("part", name)
        for field, value in changes.items()
    }
    config = Config().replace(**changes, **{"data.image_size": 32, "data.batch_size": 4})
    with pytest.raises(ConfigError, match=message):
        rehearse(dataclasses.replace(small_setup(), config=config))


@functools.cache
def small_setup() -> TrainingSetup:
    config = Config().replace(
        **{
            "model.backbone": "small_cnn",
            "model.weights": "none",
            "model.width_multiplier": 0.1,
            "train.scenario": "from_scratch",
            "data.batch_size": 4,
        }
    )
    return make_setup(config, 3, 8, 4)


def test_own_augmentations_follow_their_seed_and_the_choice_of_one_part(
    write: Write,
) -> None:
    own = f"{write('def dark(images, uniform, config): return images * 0').__name__}:dark"
    images = np.random.default_rng(0).uniform(1, 255, (64, 8, 8, 3)).astype(np.float32)
    layer = "keras.layers:RandomBrightness(0.5)"
    config = AugmentConfig(parts=("flip", layer))
    first, same, other = (Augmentation(config, seed) for seed in (1, 1, 2))
    drawn = np.asarray(first(images, training=True))
    np.testing.assert_array_equal(drawn, same(images, training=True))
    assert np.abs(drawn - np.asarray(other(images, training=True))).max() > 1
    # The states of all generators are variables, which checkpoints contain.
    copy = Augmentation(config, 2)
    for variable, value in zip(copy.variables, first.variables, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(first(images, training=True), copy(images, training=True))
    np.testing.assert_array_equal(first(images), images)
    one = Augmentation(AugmentConfig(parts=("flip", own), choose="one"), 0)
    is_dark = (np.asarray(one(images, training=True)) == 0).all(axis=(1, 2, 3))
    assert 16 < is_dark.sum() < 48


def test_modules_are_hashed_except_keras(write: Write) -> None:
    module = write("def f(): pass")
    names = (f"{module.__name__}:f", "keras.layers:RandomZoom(0.2)")
    assert hash_modules(names) == {module.__name__: sha256(Path(str(module.__file__)))}
    assert file_name(f"{module.__name__}:f(a=1)") == f"{module.__name__}.f.a.1"


@pytest.mark.parametrize(
    ("package", "code", "variables"),
    [
        (
            "mlflow",
            MLFLOW,
            # mlflow-skinny has no database.
            {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_TRACKING_URI": "file:mlruns"},
        ),
        ("wandb", WANDB, {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}),
    ],
)
def test_documented_trackers_record_each_epoch(
    package: str,
    code: str,
    variables: dict[str, str],
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    name = f"{write(code).__name__}:{package}_run"
    config = Config().replace(**{"train.callbacks": [name]})
    callbacks = UserCallbacks(make_callbacks(config, tmp_path / "run", ()))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks.set_model(model)
    callbacks.on_train_begin()
    for epoch, loss in enumerate((2.0, 1.0)):
        callbacks.on_epoch_end(epoch, {"loss": loss})
    callbacks.finish()
    if package == "wandb":
        assert tracker.run.summary["epoch/loss"] == 1.0
        tracker.finish()
    else:
        run_id = tracker.active_run().info.run_id
        tracker.end_run()
        rows = tracker.MlflowClient().get_metric_history(run_id, "loss")
        assert [row.value for row in rows] == [2.0, 1.0]
