"""Training on cached features gives the same head as training with a frozen backbone."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from test_resume import assert_same, train_with_interruptions

from skincnn.clinical_metadata import CLINICAL_FEATURES, encode_clinical_metadata
from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ImbalanceConfig,
    LossConfig,
    ModelConfig,
    StageConfig,
    TrainConfig,
)
from skincnn.errors import ConfigError, DataError, Terminated
from skincnn.model.classifier import build_classifier, set_trainable
from skincnn.model.orientations import orient
from skincnn.training import features, fitting
from skincnn.training.features import (
    build_head,
    compute_features,
    steps_per_execution,
)
from skincnn.training.run import train
from skincnn.training.setup import check, check_metadata

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
MODEL = ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weights file, because only a backbone with weights can be frozen."""
    path = tmp_path_factory.mktemp("weights") / "small_cnn.weights.h5"
    build_classifier(MODEL, 7, seed=3).get_layer("backbone").save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def config(weights: str) -> Config:
    """A linear probe with clinical metadata; 16 steps of oversampled images."""
    return Config(
        data=DataConfig(
            datasets=("demo_tiny",), image_size=32, batch_size=11, train_folds=(0, 1)
        ),
        augment=AugmentConfig(magnitude=0),
        model=dataclasses.replace(MODEL, weights=weights, clinical_metadata=True),
        imbalance=ImbalanceConfig(strategy="oversampling", ratio=0.5),
        loss=LossConfig(label_smoothing=0.1),
        train=TrainConfig(scenario="linear_probe", epochs=2),
    )


def with_features(config: Config, num_views: int) -> Config:
    train = dataclasses.replace(config.train, cached_views=num_views)
    return dataclasses.replace(config, train=train)


@pytest.mark.parametrize(
    ("metadata", "policy"), [(True, "float32"), (False, "mixed_bfloat16")]
)
def test_the_head_on_features_equals_the_classifier(metadata: bool, policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        config = dataclasses.replace(MODEL, clinical_metadata=metadata)
        classifier = build_classifier(config, 7, fused=True)
    finally:
        keras.config.set_dtype_policy("float32")
    computed = compute_features(classifier, IMAGES, 4)
    assert computed.dtype == np.float32
    assert len(computed) == 20
    head = build_head(classifier)
    clinical = RNG.normal(size=(5, len(CLINICAL_FEATURES))).astype(np.float32)

    def inputs(images: object) -> object:
        return {"images": images, "metadata": clinical} if metadata else images

    for number in range(4):
        expected = classifier.predict(inputs(np.asarray(orient(IMAGES, number))), verbose=0)
        logits = head.predict(inputs(computed[number::4]), verbose=0)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    # The layers are shared, so training the head trains the classifier.
    set_trainable(classifier, 0)
    assert [v.path for v in head.trainable_variables] == [
        v.path for v in classifier.trainable_variables
    ]
    for variable in head.trainable_variables:
        variable.assign(keras.ops.ones_like(variable))
    np.testing.assert_allclose(
        head.predict(inputs(computed[::4]), verbose=0),
        classifier.predict(inputs(IMAGES), verbose=0),
        rtol=1e-5,
    )


def test_features_do_not_depend_on_trainable_layers() -> None:
    classifier = build_classifier(MODEL, 7, fused=True)
    computed = compute_features(classifier, IMAGES)
    set_trainable(classifier, 0)
    np.testing.assert_array_equal(compute_features(classifier, IMAGES), computed)


def test_one_view_trains_like_the_frozen_backbone(
    config: Config, data_dir: Path, tmp_path: Path
) -> None:
    """Order, dropout, sampling, loss and schedule are the same."""
    uncached, cached = (
        train_with_interruptions(
            with_features(config, number), tmp_path / str(number), data_dir, []
        )
        for number in (0, 1)
    )
    histories = [
        pd.DataFrame(progress.history).drop(columns="seconds")
        for progress, _ in (uncached, cached)
    ]
    pd.testing.assert_frame_equal(*histories, rtol=1e-4)
    predictions = [
        keras.saving.load_model(tmp_path / str(number) / "model.keras").predict(
            {"images": IMAGES, "metadata": np.zeros((5, len(CLINICAL_FEATURES)))}, verbose=0
        )
        for number in (0, 1)
    ]
    np.testing.assert_allclose(*predictions, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("later", [0, 1])
def test_an_interrupted_run_on_features_ends_with_the_same_weights(
    later: int,
    config: Config,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run stops within an epoch, at its end, in the next one, and before a stage."""
    monkeypatch.setattr(features, "MAX_STEPS_PER_EXECUTION", 6)  # 4 of 16 steps, 6 of 12
    stages = (
        *(StageConfig(trainable_blocks=0, epochs=2),),
        *(StageConfig(trainable_blocks=-1, epochs=1),) * later,
    )
    train = TrainConfig(scenario="staged", stages=stages, cached_views=4)
    augment = AugmentConfig(parts=("flip", "light"))
    config = dataclasses.replace(config, augment=augment, train=train)
    stops = [1, 2, 3, 1] if later else [1, 3]
    pieces = train_with_interruptions(config, tmp_path / "pieces", data_dir, stops)
    assert_same(pieces, train_with_interruptions(config, tmp_path / "whole", data_dir, []))
    assert len(pieces[0].history) == 2 + later


def test_steps_per_execution_divides_the_steps_of_an_epoch() -> None:
    steps = (1, 7, 12, 64, 250, 313)
    assert list(map(steps_per_execution, steps)) == [1, 7, 12, 32, 25, 1]


def test_unsupported_options_with_features_are_rejected(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"cached_views` must be 0, 1, 2, 4 or 8"):
        with_features(config, 3)
    mixed = dataclasses.replace(config, augment=AugmentConfig(mix="mixup"))
    with pytest.raises(ConfigError, match="features are not mixed"):
        with_features(mixed, 1)
    all_layers = TrainConfig(cached_views=1, head_epochs=0)
    with pytest.raises(ConfigError, match="no stage trains only the head"):
        check(dataclasses.replace(config, train=all_layers))


def test_unknown_clinical_metadata_is_rejected() -> None:
    unknown = encode_clinical_metadata(
        pd.DataFrame({"age": [np.nan], "sex": ["unknown"], "localization": [""]})
    )
    known = encode_clinical_metadata(
        pd.DataFrame({"age": [np.nan], "sex": ["male"], "localization": [""]})
    )
    with pytest.raises(DataError, match="no training image has an age"):
        check_metadata(np.repeat(unknown, 3, axis=0))
    check_metadata(np.concatenate([unknown, known]))


def test_a_signal_stops_computing_features_immediately(
    config: Config, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step has to be finished, and computing may take minutes."""

    def compute(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("computing was not stopped")

    monkeypatch.setattr(fitting.Inputs, "train", compute)
    with pytest.raises(Terminated):
        train(with_features(config, 1), tmp_path, data_dir, cache="memory")
