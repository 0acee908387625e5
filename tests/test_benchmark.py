"""The arithmetic of the benchmarks, and each of them on few pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, jpeg, run_here, run_script
from PIL import Image

from benchmarks import features, images, measure, serving, training
from benchmarks import input as benchmark
from benchmarks.measure import Result
from skincnn.errors import ConfigError
from skincnn.serving.images import read_images


class Clock:
    """A clock that moves only when work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], int]:
        """Returns work on 12 pictures that takes these times in turn."""
        times = iter(seconds)

        def once() -> int:
            self.now += next(times)
            return 12

        return once


def test_a_ratio_is_the_median_of_pairs_after_one_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    monkeypatch.setattr(measure, "PAIRS", 3)
    result = measure.compare(
        "x",
        clock.work(1000, 4, 2, 6),  # 3, 6 and 2 pictures a second
        clock.work(1000, 1000, 4, 2, 4, 4, 12, 6),  # 3 and 6, 3 and 3, 1 and 2
        at_least=1.0,
    )
    assert result.value == pytest.approx(4 / 3)  # of 3 / 4.5, 6 / 3 and 2 / 1.5
    assert (result.low, result.high) == pytest.approx((2 / 3, 2))
    assert result.same == pytest.approx((1, 2))
    assert (result.pairs, result.passed) == (3, True)


def test_what_is_asked_for_decides() -> None:
    assert Result("x", 0.8, at_least=0.9).passed is False
    assert Result("x", 700, "MiB", at_most=600).passed is False
    assert Result("x", 500, "MiB", at_most=600).passed is True
    assert Result("x", 1.0).passed is None
    exact = Result("x", 1.0, at_least=1, at_most=1)
    assert exact.passed is True
    assert dataclasses.replace(exact, value=1.5).passed is False
    assert measure.to_text([exact]).split()[-2:] == ["1", "ok"]
    text = measure.to_text([Result("speed", 0.8, at_least=0.9), Result("plain", 1.5)])
    assert "0.80 x" in text
    assert "NOT REACHED" in text
    assert json.loads(json.dumps(measure.to_json(Result("x", 1.0))))["passed"] is None


def test_peak_memory_sees_what_was_let_go() -> None:
    before = measure.peak_memory()
    held = bytearray(os.urandom(64 << 20))
    del held
    assert measure.peak_memory() >= before
    code = (
        "from benchmarks.measure import peak_memory as p; a = p();"
        "b = bytearray(b'x') * (64 << 20); del b; print((p() - a) >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 60 <= int(done.stdout) <= 80, done.stderr


def hold(mebibytes: int) -> None:
    bytearray(b"x") * (mebibytes << 20)


def test_the_peak_of_a_call_is_measured_in_its_own_process() -> None:
    assert 90 <= measure.peak_of(hold, 100) >> 20 <= 120


def test_made_up_pictures_are_like_originals_and_a_folder_is_repeated(
    tmp_path: Path,
) -> None:
    (content,) = images.picture_files(None, 1)
    assert Image.open(io.BytesIO(content)).size == (600, 450)
    assert 100_000 < len(content) < 400_000
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    files = images.picture_files(tmp_path, 5)
    assert files == [jpeg(0), jpeg(1), jpeg(0), jpeg(1), jpeg(0)]
    with pytest.raises(ConfigError, match="--pictures"):
        images.picture_files(tmp_path / "nowhere", 5)


def test_every_benchmark_gives_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PAIRS", 1)
    monkeypatch.setattr(benchmark, "FIT_STEPS", 1)
    monkeypatch.setattr(benchmark, "FIT_MODEL", benchmark.MEMORY_MODEL)
    monkeypatch.setattr(benchmark, "CONFIG", benchmark.DataConfig(image_size=32))
    monkeypatch.setattr(benchmark, "MEMORY_CONFIG", benchmark.CONFIG)

    def peak_here(function: Callable[..., None], *arguments: object) -> int:
        function(*arguments)
        return 1

    # Each process of its own would take seconds to import TensorFlow.
    monkeypatch.setattr(benchmark, "peak_of", peak_here)
    files = [jpeg(number) for number in range(70)]
    setting = benchmark.prepare(files, tmp_path)
    assert len(setting.table) == 70
    for name in set(benchmark.BENCHMARKS) - {"torch_loader"}:
        results = list(benchmark.BENCHMARKS[name](setting))
        assert results
        for result in results:
            assert result.value > 0
            assert result.name in measure.to_text(results)


def test_a_benchmark_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which the script would leave behind here
    done = run_here(
        "benchmarks", "input", "--only", "first_pas", "--output", tmp_path / "o"
    )
    assert done.returncode == 2
    assert "--only must be one of: first_pass, later_epochs" in done.stderr


@pytest.mark.usefixtures("uncompiled")
def test_every_benchmark_of_training_gives_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAIRS", 1)
    model = training.ModelConfig(backbone="test_presets:one_layer", weights="none")
    for module in (training, features):
        monkeypatch.setattr(module, "MODEL", model)
    monkeypatch.setattr(features, "EPOCH_IMAGES", 128)
    results = list(training.run(training.Size(32, 8, steps=2, affine_steps=1)))
    assert [result.at_least for result in results] == [0.95, 1, 0.9, 2, 100]
    for result in results:
        assert result.value > 0
    passes = results[1]
    assert (passes.low, passes.value, passes.high, passes.pairs) == (1, 1, 1, 2)
    assert passes.passed


def test_the_script_names_its_benchmarks_and_refuses_an_empty_folder(
    tmp_path: Path,
) -> None:
    done = run_script("benchmarks", "input", "--pictures", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "--pictures must be a folder with .jpg files" in done.stderr
    described = run_script("benchmarks", "--help").stdout
    for name in ("input", "train", "serve"):
        assert name in described
        assert f"-m benchmarks {name}" in (ROOT / "Makefile").read_text()


def test_every_benchmark_of_serving_gives_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PAIRS", 1)
    monkeypatch.setattr(serving, "SINGLE_PICTURES", 2)
    config = dataclasses.replace(
        serving.CONFIG,
        data=serving.DataConfig(image_size=32),
        model=serving.ModelConfig(backbone="test_presets:one_layer", weights="none"),
    )
    monkeypatch.setattr(serving, "CONFIG", config)
    setting = serving.prepare(None, [jpeg(number) for number in range(6)], 20, tmp_path)
    found = {}
    for name in set(serving.BENCHMARKS) - {"memory"}:
        found[name] = list(serving.BENCHMARKS[name](setting))
        for result in found[name]:
            assert result.value > 0
            assert result.name in measure.to_text(found[name])
    assert [result.at_most for result in found["calls"]] == [1.1, 1.1]
    assert [result.at_least for result in found["whole_way"]] == [0.9, None]
    sizes, rest = found["copies"][:2], found["copies"][2:]
    assert [result.at_most for result in sizes] == [0.3, None]
    # Keras's own speed, and each copy against it: of single pictures and of many.
    assert [result.unit for result in rest] == ["pictures/s", "x", "x", "x", "x"] * 2


def test_the_memory_of_a_server_is_read_twice(tmp_path: Path) -> None:
    """A server that keeps four megabytes of each request is seen to grow."""

    class Forgetful(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
        def answer(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            kept = tf.numpy_function(keep, [image_bytes], tf.int64)
            return {"status": tf.fill(tf.shape(image_bytes), kept)}

    held = []

    def keep(contents: object) -> np.int64:
        held.append(np.ones(4_000_000, np.uint8))
        return np.int64(len(held))

    module = Forgetful()
    tf.saved_model.save(
        module, str(tmp_path), signatures={"serving_default": module.answer}
    )
    first, last = serving.answer_requests(tmp_path, 100)
    assert len(held) >= 100
    assert 300e6 < last - first < 450e6


def test_requests_are_of_several_sizes_and_some_are_no_pictures() -> None:
    files = serving.request_files()
    images, is_read = read_images(tf.constant(files), serving.DataConfig(image_size=32))
    assert is_read.numpy().tolist() == [False] * 2 + [True] * 8 + [False]
    sizes = {Image.open(io.BytesIO(file)).size for file in files[2:-1]}
    assert len(sizes) == len(serving.REQUEST_SIDES)
    assert images.shape == (11, 32, 32, 3)


def test_too_few_pictures_or_requests_are_refused(tmp_path: Path) -> None:
    for flags in (("--requests", 9), ("--num-images", 0)):
        done = run_here("benchmarks", "serve", *flags, "--output", tmp_path / "o")
        assert done.returncode == 2
        assert "--num-images must be >= 1 and --requests >= 10" in done.stderr
