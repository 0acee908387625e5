"""Runs: training, evaluation, explanation, report and export."""

from __future__ import annotations

import html
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import pandas as pd
from PIL import Image

from skincnn.api.data import PathLike
from skincnn.api.model import Array, Model, list_images, read_image, rows_of_metadata
from skincnn.api.rehearsal import rehearse
from skincnn.config import Config, read_config
from skincnn.data.cache import Cache
from skincnn.errors import ConfigError
from skincnn.evaluation.evaluate import EvaluateOptions, evaluate, write_evaluation
from skincnn.evaluation.external.evaluate import (
    ExternalOptions,
    evaluate_external,
    write_external,
)
from skincnn.evaluation.external.result import ExternalResult
from skincnn.evaluation.results import SplitResult, read_split_results, split_name
from skincnn.files import locked
from skincnn.inference.load import load_model
from skincnn.inference.logit_adjustment import adjusted_name
from skincnn.inference.predictions import read_predictions, table_path
from skincnn.inference.run_dir import (
    CONFIG_FILE,
    RUN_FILE,
    RunInfo,
    read_history,
    read_run_info,
)
from skincnn.lookup import look_up
from skincnn.model.reproducibility import deterministic_ops
from skincnn.paths import to_path
from skincnn.reporting.checklist import render_checklists
from skincnn.reporting.load import load_results
from skincnn.reporting.report import render_report, summary
from skincnn.serving.conversion import export
from skincnn.serving.explain import Explainer
from skincnn.serving.export import ExportSpec, find_runs
from skincnn.serving.images import OK
from skincnn.serving.predictor import predict_files
from skincnn.startup import own_settings
from skincnn.training import run as training
from skincnn.training.devices import leave_processes, run_folder


class Run(Model):
    """A run directory: a trained model with its history, results, report and exports."""

    def __init__(
        self, path: PathLike, data_dir: PathLike | None = None, cache: Cache = "auto"
    ):
        """Opens a run directory.

        Args:
            path: The run directory.
            data_dir: The directory of built datasets, for evaluation and export; by
                default the data directory of TFDS.
            cache: Where decoded images are kept: "memory", "disk", or "auto".
        """
        super().__init__(path)
        self.data_dir = None if data_dir is None else to_path(data_dir)
        self.cache: Cache = cache

    @property
    def info(self) -> RunInfo:
        """The content of run.json: software, data, classes and hashes; see `RunInfo`."""
        return read_run_info(self.path)

    @property
    def config(self) -> Config:
        """The configuration."""
        return read_config(self.path / CONFIG_FILE)

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: loss and validation scores."""
        return read_history(self.path)

    @property
    def results(self) -> dict[str, SplitResult]:
        """The results of splits and variants by name, such as "test" and "test.augment"."""
        return read_split_results(self.path)

    def predictions(self, name: str = "test") -> pd.DataFrame:
        """Returns the predictions table of an evaluation, one row per image."""
        return read_predictions(table_path(self.path, name))

    @own_settings()
    def model(self) -> keras.Model:
        """Returns the trained Keras model: images in 0..255 to logits."""
        return load_model(self.path, self.info)

    @own_settings()
    def evaluate(
        self,
        *,
        tta: str | Sequence[str] = (),
        num_views: int = 8,
        logit_adjustment: bool = False,
        corruptions: bool = False,
        splits: Sequence[str] = (),
        ood_dir: PathLike | None = None,
    ) -> SplitResult:
        """Predicts the validation and test splits, and writes and returns their scores.

        Args:
            tta: Test-time augmentation: "d4" for the eight orientations, "augment" for
                views augmented as in training, or both.
            num_views: Number of views for `tta`; at most 8 for "d4".
            logit_adjustment: Whether to also evaluate with logits that are adjusted for the
                class frequencies.
            corruptions: Whether to evaluate on corrupted images as well.
            splits: Further splits: "fold_<n>", "test_official", "validation_official".
            ood_dir: A directory of images that OOD detection should flag.

        Returns:
            The result of the test split, or of the first of `splits`, with the first of
            `tta` and with logit adjustment, if requested. `results` contains all results.

        Raises:
            ConfigError: A split or an option is not valid for this run.
            DataError: The dataset is missing, damaged, or not that of the training run.
        """
        kinds = ((tta,) if tta else ()) if isinstance(tta, str) else tuple(tta)
        options = EvaluateOptions(
            splits=splits,
            tta=kinds,
            num_views=num_views,
            logit_adjustment=logit_adjustment,
            corruptions=corruptions,
            ood_dir=None if ood_dir is None else to_path(ood_dir),
        )
        with locked(self.path):
            evaluation = evaluate(self.path, self.data_dir, self.cache, options)
            write_evaluation(self.path, evaluation)
        self._predictor = None  # the thresholds may have changed
        views = kinds[0] if kinds else ""
        variant = adjusted_name(views) if logit_adjustment else views
        return self.results[split_name(evaluation.headline, variant)]

    @own_settings()
    def evaluate_external(
        self,
        dataset: str,
        *,
        label_map: PathLike | None = None,
        prevalences: Mapping[str, float] | None = None,
        skip_overlap_audit: bool = False,
    ) -> ExternalResult:
        """Evaluates the run on another built dataset, and writes and returns the result.

        The preprocessing, calibration, thresholds and OOD limit are those of the run.
        Images that overlap with the training and validation images are left out, as far as
        the overlap audit finds them.

        Args:
            dataset: Name of the dataset.
            label_map: A JSON file with the class of the model for each label.
            prevalences: Prevalences by target, such as {"melanoma": 0.02}, at which to give
                PPV and NPV.
            skip_overlap_audit: Whether to score all images without comparing them with the
                training and validation images.

        Raises:
            ConfigError: The run was not evaluated, or a label has no class.
            DataError: A dataset is missing, or no images remain to be scored.
        """
        options = ExternalOptions(
            dataset=dataset,
            label_map=None if label_map is None else to_path(label_map),
            prevalences=prevalences or {},
            skip_overlap_audit=skip_overlap_audit,
        )
        with locked(self.path):
            evaluation = evaluate_external(self.path, options, self.data_dir, self.cache)
            write_external(self.path, evaluation)
        return evaluation.result

    @own_settings()
    def report(self, headline: str = "", *, open: bool = False) -> Path:
        """Renders report.html, the figures and the model card, and returns the report.

        Args:
            headline: The split that the report shows first; the test split by default.
            open: Whether to open the report in a browser.
        """
        with locked(self.path):
            path = render_report(self.path, headline)
        if open:
            webbrowser.open(path.resolve().as_uri())
        return path

    def checklists(self, names: Sequence[str] = ()) -> list[Path]:
        """Writes checklists of reporting standards, and returns the paths of the files.

        Args:
            names: Standards, such as "tripod-ai"; see docs/guides/evaluation.md. Checklists
                that exist are written again.

        Raises:
            ConfigError: A standard does not exist, or authors.toml is not valid.
        """
        with locked(self.path):
            return render_checklists(load_results(self.path), names)

    @own_settings()
    def explain(
        self,
        image: PathLike | Image.Image | Array,
        class_name: str = "",
        clinical_metadata: pd.DataFrame | None = None,
    ) -> Image.Image:
        """Returns the input of the model beside its Grad-CAM overlay.

        Args:
            image: A file, a PIL image or an array uint8 [height, width, 3].
            class_name: The class to explain; the predicted class by default.
            clinical_metadata: See `predict`.

        Raises:
            ConfigError: There are several images, the image is unreadable, or the class
                does not exist.
        """
        (path, pixels), *others = list_images(image)
        if others:
            raise ConfigError(f"Expected one image. Received: {1 + len(others)}.")
        content = read_image(path, pixels)
        rows = rows_of_metadata(clinical_metadata, 1)
        [row] = predict_files(self.predictor, [path], [content], rows).itertuples()
        if row.status != OK:
            raise ConfigError(f"{path} is {row.status}.")
        class_name = class_name or str(row.predicted_class)
        look_up(dict.fromkeys(self.class_names), class_name, "`class_name`")
        [pair] = Explainer(self.path).explain([content], [class_name], rows)
        assert pair is not None
        return pair

    @own_settings()
    def export(
        self,
        formats: Sequence[str] = ("saved_model",),
        *,
        tta: str = "",
        logit_adjustment: bool = False,
        ood: bool = True,
        operating_point: str = "sensitivity=0.90",
    ) -> dict[str, Path]:
        """Writes exports, checks their parity with the model, and returns their paths.

        Call `report` afterward: the model card shows the parity.

        Args:
            formats: "saved_model", "litert", "litert_float16", "litert_int8_weights",
                "litert_int8", "onnx".
            tta: "d4" to average the predictions for the eight orientations.
            logit_adjustment: Whether to adjust the logits, as evaluated.
            ood: Whether the export detects out-of-distribution images.
            operating_point: Operating point of the referral threshold, such as
                "sensitivity=0.90".

        Raises:
            ConfigError: The run was not evaluated with these options, a format does not
                exist or does not support the model, or its packages are not installed.
            DataError: The export does not reproduce the predictions of the model, or the
                dataset or a file is missing or has changed.
        """
        spec = ExportSpec(
            workdir=self.path,
            runs=find_runs(self.path),
            tta=tta,
            logit_adjustment=logit_adjustment,
            ood=ood,
            operating_point=operating_point,
        )
        return dict(export(spec, formats, self.data_dir))

    def summary(self, headline: str = "") -> str:
        """Returns the main scores as text; `headline` is the split to show first."""
        return summary(load_results(self.path, headline))

    def _repr_html_(self) -> str:
        text = self.summary() if self.results else "not evaluated: run.evaluate()"
        style = "white-space: pre-wrap"
        name = html.escape(str(self.path))
        return f'<b>{name}</b><pre style="{style}">{html.escape(text)}</pre>'


@own_settings()
def train(
    config: Config,
    workdir: PathLike,
    data_dir: PathLike | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    cache: Cache = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Trains a classifier, and returns its run, which is not evaluated yet.

    In distributed training, all processes but the first exit when they have finished.
    Custom parts (docs/guides/extending.md) are tested before the first epoch, and so are
    saving and exporting a model with a custom backbone.

    Args:
        config: The configuration, such as `skincnn.preset("mobilenet_160")`.
        workdir: The run directory.
        data_dir: The directory of built datasets; by default the data directory of TFDS.
        overwrite: Whether to replace an existing run.
        resume: Whether to resume an interrupted run; a finished run does not change.
        cache: Where decoded images are kept: "memory", "disk", or "auto".
        callbacks: Keras callbacks, after those of `train.callbacks`. They see all epochs as
            one training run.

    Raises:
        ConfigError: The configuration is invalid, `workdir` cannot be used, or a callback
            or another custom part raised an exception.
        DataError: The dataset has not been built, or the splits do not pass the leakage
            audit.
        DivergedError: The loss has diverged, or the weights or outputs are not finite.
    """
    run = Run(workdir, data_dir, cache)
    with (
        run_folder(run.path) as folder,
        deterministic_ops(config.train.deterministic),
    ):
        training.train(
            config,
            folder,
            run.data_dir,
            overwrite=overwrite,
            resume=resume,
            cache=cache,
            callbacks=callbacks,
            rehearse=rehearse,
        )
        leave_processes()
    if folder != run.path:
        sys.exit()
    return run


def load(path: PathLike, data_dir: PathLike | None = None) -> Model:
    """Returns the `Run` in a run directory, or the `Model` in an export.

    Args:
        path: A run directory, a SavedModel, or a LiteRT or ONNX file.
        data_dir: The directory of built datasets, for the evaluation and export of a run;
            by default the data directory of TFDS.

    Raises:
        ConfigError: The path does not exist.
    """
    path = to_path(path)
    if (path / RUN_FILE).is_file():
        return Run(path, data_dir)
    if not path.exists():
        raise ConfigError(f"{path} does not exist. Expected a run directory or an export.")
    return Model(path)
