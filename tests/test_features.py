"""Training on cached features is the training of the head through the frozen backbone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from test_resume import assert_same, train_in_pieces

from skincnn.benchmark import features as benchmark
from skincnn.benchmark import measure
from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ImbalanceConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)
from skincnn.errors import ConfigError
from skincnn.model.classifier import build_classifier, set_trainable
from skincnn.training import run
from skincnn.training.features import (
    build_head,
    compute_features,
    orient,
    steps_per_call,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
MODEL = ModelConfig(backbone="small_cnn", width=0.25, weights="none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights: nothing is frozen that does not come from somewhere."""
    path = tmp_path_factory.mktemp("weights") / "small_cnn.weights.h5"
    build_classifier(MODEL, 7, seed=3).get_layer("backbone").save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def config(weights: str) -> Config:
    """The head, then everything; metadata, dropout, smoothing, oversampling."""
    return Config(
        data=DataConfig(
            dataset="demo_tiny", image_size=32, batch_size=16, train_folds=(0, 1)
        ),
        augment=AugmentConfig(magnitude=0),
        model=dataclasses.replace(MODEL, weights=weights, metadata=True),
        imbalance=ImbalanceConfig(strategy="oversampling", ratio=0.5),
        loss=LossConfig(label_smoothing=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_epochs=0.5),
        train=TrainConfig(
            scenario="staged",
            stages=(StageConfig(blocks=0, epochs=2), StageConfig(blocks=-1, epochs=1)),
        ),
    )


def with_features(config: Config, orientations: int) -> Config:
    train = dataclasses.replace(config.train, cached_features=orientations)
    return dataclasses.replace(config, train=train)


def test_orientations_are_the_eight_of_a_square() -> None:
    turned = [np.asarray(orient(IMAGES, number)) for number in range(8)]
    expected = [
        np.rot90(images, turns, axes=(1, 2))
        for turns in range(4)
        for images in (IMAGES, IMAGES[:, :, ::-1])
    ]
    np.testing.assert_array_equal(turned[0], IMAGES)
    assert {x.tobytes() for x in turned} == {x.tobytes() for x in expected}
    for count in (2, 4):  # each orientation of each is among them
        first = {x.tobytes() for x in turned[:count]}
        for one in turned[:count]:
            again = {np.asarray(orient(one, number)).tobytes() for number in range(count)}
            assert again == first


@pytest.mark.parametrize("metadata", [False, True])
def test_the_head_on_features_is_the_classifier(metadata: bool) -> None:
    config = dataclasses.replace(MODEL, metadata=metadata)
    classifier = build_classifier(config, 7, fused=True)
    features = compute_features(classifier, IMAGES, 4)
    assert features.dtype == np.float32
    assert len(features) == 20
    head = build_head(classifier)
    patients = RNG.normal(size=classifier.input["metadata"].shape[1:] if metadata else 0)
    patients = np.repeat(patients[None].astype(np.float32), 5, axis=0)

    def inputs(images: object) -> object:
        return {"images": images, "metadata": patients} if metadata else images

    for number in range(4):
        expected = classifier.predict(inputs(np.asarray(orient(IMAGES, number))), verbose=0)
        found = head.predict(inputs(features[number::4]), verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # The layers are shared: what the head learns, the classifier knows.
    set_trainable(classifier, 0)
    assert [v.path for v in head.trainable_variables] == [
        v.path for v in classifier.trainable_variables
    ]
    for variable in head.trainable_variables:
        variable.assign(keras.ops.ones_like(variable))
    np.testing.assert_allclose(
        head.predict(inputs(features[::4]), verbose=0),
        classifier.predict(inputs(IMAGES), verbose=0),
        rtol=1e-5,
    )


def test_features_are_those_of_inference_whatever_trains() -> None:
    classifier = build_classifier(MODEL, 7, fused=True)
    features = compute_features(classifier, IMAGES)
    set_trainable(classifier, 0)
    np.testing.assert_array_equal(compute_features(classifier, IMAGES), features)
    np.testing.assert_array_equal(compute_features(classifier, IMAGES), features)


def test_plain_features_train_as_the_frozen_backbone_does(
    config: Config, data_dir: Path, tmp_path: Path
) -> None:
    """Same order, dropout, sampling, loss and schedule; then the rest of the stages."""
    (through, _), (cached, _) = (
        train_in_pieces(with_features(config, number), tmp_path / str(number), data_dir, [])
        for number in (0, 1)
    )
    one, other = (
        pd.DataFrame(progress.history).drop(columns="seconds")
        for progress in (through, cached)
    )
    assert len(one) == 3
    pd.testing.assert_frame_equal(one[:2], other[:2], rtol=1e-4)
    # The whole backbone trains from there on, and rounding grows.
    pd.testing.assert_frame_equal(one, other, rtol=0.02, atol=0.02)
    models = [
        keras.saving.load_model(tmp_path / name / "model.keras") for name in ("0", "1")
    ]
    assert [w.shape for w in models[0].weights] == [w.shape for w in models[1].weights]


def test_a_stopped_training_on_features_ends_with_the_same_weights(
    config: Config, data_dir: Path, tmp_path: Path
) -> None:
    """Stopped in the first epoch, and between its two stages, with four orientations."""
    config = with_features(config, 4)
    whole = train_in_pieces(config, tmp_path / "whole", data_dir, [])
    steps = len(pd.read_csv(tmp_path / "whole" / "history.csv"))
    assert steps == 3
    for number, stops in enumerate([[1], [2, 2]]):
        pieces = train_in_pieces(config, tmp_path / str(number), data_dir, stops)
        assert_same(pieces, whole)


def test_a_call_takes_steps_that_fill_an_epoch() -> None:
    assert [steps_per_call(steps) for steps in (1, 7, 12, 64, 250, 313)] == [
        *(1, 7, 12, 32, 25, 1)
    ]


def test_what_features_cannot_do_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"cached_features` must be 0, 1, 2, 4 or 8"):
        with_features(config, 3)
    mixed = dataclasses.replace(config, augment=AugmentConfig(mix="mixup"))
    with pytest.raises(ConfigError, match="features are not mixed"):
        with_features(mixed, 1)
    whole = TrainConfig(cached_features=1, head_epochs=0)
    with pytest.raises(ConfigError, match="no stage trains the head alone"):
        run.check(dataclasses.replace(config, train=whole))


def test_the_benchmark_gives_its_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAIRS", 1)
    monkeypatch.setattr(benchmark, "MODEL", MODEL)
    monkeypatch.setattr(benchmark, "DATA", DataConfig(image_size=32, batch_size=8))
    monkeypatch.setattr(benchmark, "EPOCH_IMAGES", 64)
    (result,) = benchmark.cached_features(16)
    assert result.value > 1
    assert result.at_least == 100
