"""The arithmetic of the benchmarks, and each benchmark on few images."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import tensorflow as tf
from conftest import ROOT, jpeg, run_here
from PIL import Image
from web_models import RULE, make_model, serve_in_thread

from benchmarks import images, measure, ood, scale, service, serving, training
from benchmarks import input as benchmark
from benchmarks.measure import Result
from skincnn.config import DataConfig
from skincnn.errors import ConfigError
from skincnn.serving.images import read_images


class Clock:
    """A clock that advances only with the work."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], int]:
        """Returns work on 12 images that takes these times in turn."""
        times = iter(seconds)

        def once() -> int:
            self.now += next(times)
            return 12

        return once


def test_a_ratio_is_the_median_of_pairs_after_a_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    monkeypatch.setattr(measure, "PAIRS", 3)
    result = measure.compare(
        "x",
        clock.work(1000, 4, 2, 6),  # 3, 6 and 2 images per second
        clock.work(1000, 1000, 4, 2, 4, 4, 12, 6),  # 3 and 6, 3 and 3, 1 and 2
        at_least=1.0,
    )
    assert result.value == pytest.approx(4 / 3)  # of 3 / 4.5, 6 / 3 and 2 / 1.5
    assert (result.low, result.high) == pytest.approx((2 / 3, 2))
    assert result.baseline_ratio == pytest.approx((1, 2))
    assert (result.pairs, result.passed) == (3, True)


def test_targets_decide_whether_a_result_passed() -> None:
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
    assert "MISSED" in text
    assert json.loads(json.dumps(measure.to_json(Result("x", 1.0))))["passed"] is None


def allocate(mebibytes: int) -> None:
    bytearray(b"x") * (mebibytes << 20)


def test_the_peak_memory_of_a_call_includes_freed_memory() -> None:
    assert 90 <= measure.peak_of(allocate, 100) >> 20 <= 120


def test_synthetic_images_resemble_originals_and_files_are_repeated(tmp_path: Path) -> None:
    (content,) = images.image_files(None, 1)
    assert Image.open(io.BytesIO(content)).size == (600, 450)
    assert 100_000 < len(content) < 400_000
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    files = images.image_files(tmp_path, 5)
    assert files == [jpeg(0), jpeg(1), jpeg(0), jpeg(1), jpeg(0)]
    with pytest.raises(ConfigError, match="--image-dir"):
        images.image_files(tmp_path / "nowhere", 5)


@pytest.mark.slow
def test_every_input_benchmark_returns_results(
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

    # A process for each measurement would import TensorFlow for seconds.
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


def test_every_scale_benchmark_returns_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "in_new_process", lambda function, *rest: function(*rest))
    monkeypatch.setattr(scale, "SAMPLE", 4)
    monkeypatch.setattr(scale, "NUM_ORIGINALS", 10)
    monkeypatch.setattr(scale, "DUPLICATES", 10)
    results = {}
    for name, run in scale.BENCHMARKS.items():
        num_images = 40 if name == "near_duplicates" else 300
        setting = scale.Setting(num_images, num_resamples=100, folder=tmp_path)
        results |= {result.name: result.value for result in run(setting)}
    assert results.pop("search for near-duplicates: share found") == 1
    assert len(results) == 9
    assert all(value > 0 for value in results.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("input", "--only", "first_pas"),
            "--only must be one of: first_pass, later_epochs",
        ),
        (
            ("input", "--image-dir", "tests"),
            "--image-dir must be a directory with .jpg files",
        ),
        (("serve", "--requests", 9), "--num-images must be >= 1 and --requests >= 10"),
        (("serve", "--num-images", 0), "--num-images must be >= 1 and --requests >= 10"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments: tuple[object, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # restored afterwards; the command sets it too
    done = run_here("benchmarks", *arguments, "--output", tmp_path / "x.json")
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.usefixtures("uncompiled")
def test_every_training_benchmark_returns_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PAIRS", 1)
    model = training.ModelConfig(backbone="test_presets:one_layer", weights="none")
    monkeypatch.setattr(training, "MODEL", model)
    monkeypatch.setattr(training, "LITE", model)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(training, "EPOCH_IMAGES", 128)
    size = training.Size(32, 8, steps=2, affine_steps=1)
    results = [result for run in training.BENCHMARKS.values() for result in run(size)]
    assert [result.at_least for result in results] == [0.95, 1, 0.95, 0.95, 0.9, 2, 100]
    for result in results:
        assert result.value > 0
    passes = results[1]
    assert (passes.low, passes.value, passes.high, passes.pairs) == (1, 1, 1, 2)
    assert passes.passed


def test_help_and_the_makefile_list_all_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # restored afterwards; the script sets it too
    described = run_here("benchmarks", "--help").stdout
    for name in ("input", "train", "serve"):
        assert name in described
        assert f"-m benchmarks {name}" in (ROOT / "Makefile").read_text()


def test_every_serving_benchmark_returns_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PAIRS", 1)
    monkeypatch.setattr(serving, "SINGLE_IMAGES", 2)
    config = dataclasses.replace(
        serving.CONFIG,
        data=serving.DataConfig(image_size=32),
        model=serving.ModelConfig(backbone="test_presets:one_layer", weights="none"),
    )
    monkeypatch.setattr(serving, "CONFIG", config)
    setting = serving.prepare(None, [jpeg(number) for number in range(6)], 20, tmp_path)
    results = {}
    for name in set(serving.BENCHMARKS) - {"memory"}:
        results[name] = list(serving.BENCHMARKS[name](setting))
        for result in results[name]:
            assert result.value > 0
            assert result.name in measure.to_text(results[name])
    assert [result.at_most for result in results["signature"]] == [1.1, 1.1]
    assert [result.at_least for result in results["end_to_end"]] == [0.9, None]
    sizes, rest = results["conversions"][:2], results["conversions"][2:]
    assert [result.at_most for result in sizes] == [0.3, None]
    # The speed of Keras and the ratio of each runtime, for one image and for a batch.
    assert [result.unit for result in rest] == ["images/s", *["x"] * 5] * 2


def exit_at_once(*_: object) -> None:
    """Takes the place of `service.run_server` in the process of the server."""


def test_a_server_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "run_server", exit_at_once)
    model = (Path("model"), RULE, DataConfig())
    with pytest.raises(EOFError), service.serving(model):
        pass


def test_the_service_benchmark_reports_errors_latency_memory_and_throughput(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PAIRS", 1)
    monkeypatch.setattr(service, "NUM_FIRST", 20)
    monkeypatch.setattr(service, "NUM_REQUESTS", 60)
    model = make_model()
    monkeypatch.setattr(service, "load", lambda _: model.predictor)

    @contextlib.contextmanager
    def serving_here(_: object) -> Iterator[tuple[int, psutil.Process]]:
        with serve_in_thread(model) as port:
            yield port, psutil.Process()

    monkeypatch.setattr(service, "serving", serving_here)
    network = types.SimpleNamespace(config=serving.CONFIG)
    setting = serving.Setting(network, RULE, tmp_path, [tmp_path / "a"] * 5, 0)
    (tmp_path / "a").write_bytes(b"12345")
    memory, failed, median, high, throughput = service.http_service(setting)
    assert (memory.at_most, failed.value, failed.at_most) == (50, 0, 0)
    assert 0 < median.value <= high.value
    assert throughput.value > 0
    assert throughput.at_least == 0.8
    seconds = service.send(1, [b""], 3)  # nothing listens on this port
    assert np.isnan(seconds).all()


def test_growing_memory_of_a_server_is_detected(tmp_path: Path) -> None:
    class LeakyServer(tf.Module):
        """Keeps four megabytes per request."""

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
        def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            count = tf.numpy_function(leak, [image_bytes], tf.int64)
            return {"status": tf.fill(tf.shape(image_bytes), count)}

    leaked = []

    def leak(contents: object) -> np.int64:
        leaked.append(np.ones(4_000_000, np.uint8))
        return np.int64(len(leaked))

    module = LeakyServer()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    first, last = serving.handle_requests(tmp_path, 100)
    assert len(leaked) >= 100
    assert 300e6 < last - first < 450e6


def test_requests_have_several_sizes_and_some_are_invalid() -> None:
    files = serving.request_files()
    images, is_read = read_images(tf.constant(files), serving.DataConfig(image_size=32))
    assert is_read.numpy().tolist() == [False] * 2 + [True] * 8 + [False]
    sizes = {Image.open(io.BytesIO(file)).size for file in files[2:-1]}
    assert len(sizes) == len(serving.REQUEST_SIDES)
    assert images.shape == (11, 32, 32, 3)


def test_methods_of_ood_detection_are_compared() -> None:
    rng = np.random.default_rng(0)
    sizes, groups = (6, 12), [str(n // 2) for n in range(200)]
    validation, usual = ([rng.gamma(2, size=(200, n)) for n in sizes] for _ in range(2))
    far = [rng.gamma(2, size=(20, n)) * np.linspace(0, 20, n) for n in sizes]
    others = [np.concatenate(pair) for pair in zip(usual, far, strict=True)]
    distances = ood.all_distances(validation, groups, others)
    assert len(distances) == 6
    for method, values in distances.items():
        own, rejected = values[:200], values[200:] > np.quantile(values[:200], 0.95)
        assert (len(own), len(rejected)) == (200, 220)
        assert rejected[:200].mean() < 0.15
        assert rejected[200:].mean() > (0.9 if "Mahalanobis" in method else 0.5)
    shares = pd.DataFrame({"number": [9, 8, 2], "x": [0.05, 1, 0.5]}, [ood.TEST, "a", "b"])
    assert ood.to_markdown(shares).endswith("| mean of the sets | 5 | 75.0 % |\n")


@pytest.mark.parametrize("name", ood.ALTERED)
def test_images_are_altered_for_ood_detection(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    altered = ood.ALTERED[name](image)
    assert (altered.shape, altered.dtype) == (image.shape, np.uint8)
    assert (altered != image).mean() > 0.5
