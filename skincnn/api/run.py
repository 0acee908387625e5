"""Runs: evaluation, predictions, report, explanation and export."""

from __future__ import annotations

import html
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import pandas as pd
from PIL import Image

from skincnn.api.data import PathLike
from skincnn.api.model import Array, Model, list_images, read_image, rows_of_metadata
from skincnn.config import Config
from skincnn.config.section import require_text
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
    RUN_FILE,
    RunInfo,
    read_history,
    read_run_config,
    read_run_info,
)
from skincnn.lookup import look_up, to_names
from skincnn.paths import to_path
from skincnn.reporting.checklist import render_checklists
from skincnn.reporting.load import load_results
from skincnn.reporting.report import render_report, summary
from skincnn.serving.explain import Explainer
from skincnn.serving.export import export
from skincnn.serving.export_spec import ExportSpec, find_runs
from skincnn.serving.images import OK
from skincnn.serving.predictor import predict_files
from skincnn.startup import own_settings


class Run(Model):
    """A run directory: a trained model with its history, results, report and exports.

    The directory of an ensemble or a cross-validation is also a `Run`, but has no model,
    configuration or history of its own: `config`, `history`, `model`, `evaluate`,
    `evaluate_external` and `explain` then raise a `ConfigError`. An ensemble must be
    exported before `predict`; a cross-validation cannot be exported. `export` requires the
    runs of the ensemble in its directory, where `skincnn train` writes them; for others,
    use `skincnn export --ensemble`.
    """

    def __init__(
        self, path: PathLike, data_dir: PathLike | None = None, cache: Cache = "auto"
    ):
        """Opens a run directory.

        Args:
            path: The run directory.
            data_dir: The directory of built datasets, for evaluation and export; by
                default the data directory of TFDS.
            cache: Where to keep decoded images; see `skincnn.data.cache.cached_images`.

        Raises:
            ConfigError: `path` or `data_dir` is a URL or not a path.
        """
        super().__init__(path)
        self.data_dir = None if data_dir is None else to_path(data_dir).absolute()
        self.cache: Cache = cache

    @property
    def info(self) -> RunInfo:
        """The content of run.json: software, data, classes and hashes; see `RunInfo`.

        Raises:
            ConfigError: run.json is missing or damaged, or has another schema version.
        """
        return read_run_info(self.path)

    @property
    def config(self) -> Config:
        """The configuration.

        Raises:
            ConfigError: config.json is missing or damaged.
        """
        return read_run_config(self.path)

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: loss and validation scores.

        Raises:
            ConfigError: history.csv is missing or damaged.
        """
        return read_history(self.path)

    @property
    def results(self) -> dict[str, SplitResult]:
        """The results of splits and variants by name, such as "test" and "test.augment".

        Raises:
            ConfigError: A file is damaged or has another schema version.
        """
        return read_split_results(self.path)

    def predictions(self, name: str = "test") -> pd.DataFrame:
        """Returns the predictions table of an evaluation, one row per image.

        `name` is a key of `results`, or "external." and the name of a dataset. Of an
        external dataset, only the scored images are returned.

        Raises:
            DataError: The table is missing or damaged.
        """
        return read_predictions(table_path(self.path, name))

    @own_settings()
    def model(self) -> keras.Model:
        """Returns the trained Keras model, which maps images in 0..255 to logits.

        With `model.clinical_metadata`, the model takes a dictionary of `images` and
        `metadata`; see `skincnn.build_model`.

        Raises:
            ConfigError: The directory contains no finished run, or the model requires
                KerasHub or the module of a custom backbone, which cannot be imported.
            DataError, OSError: The model file was modified, or cannot be read or loaded.
        """
        return load_model(self.path, self.info)

    @own_settings()
    def evaluate(
        self,
        *,
        tta: str | Sequence[str] = (),
        num_views: int = 8,
        logit_adjustment: bool = False,
        corruptions: bool = False,
        splits: str | Sequence[str] = (),
        ood_dir: PathLike | None = None,
    ) -> SplitResult:
        """Predicts the validation and test splits, and writes their scores.

        Args:
            tta: Test-time augmentation: "d4" for the eight orientations, "augment" for
                views augmented as in training, or both.
            num_views: Number of views of each image for `tta`; at most 8 for "d4".
            logit_adjustment: Whether to also evaluate with logits that are adjusted for the
                class frequencies.
            corruptions: Whether to evaluate on corrupted images as well: those of the test
                split, or of the first of `splits`.
            splits: A further split, or several: "fold_<n>", "test_official" or
                "validation_official".
            ood_dir: A directory of images that OOD detection should flag, in addition to
                the built-in ones.

        Returns:
            The result of the test split, or of the first of `splits`, with the first of
            `tta` and with logit adjustment, if requested. `results` contains all results.

        Raises:
            ConfigError: The directory contains no finished run or is in use, a file is
                damaged, a split or an option is not valid for this run, a custom part
                fails, or the image cache or a result cannot be written.
            DataError: The dataset is missing, damaged, or not that of the training run, the
                model file or an earlier predictions table is damaged, or an image in
                `ood_dir` cannot be read or decoded.
            OSError: A file of the run is not readable, or a temporary file cannot be
                written.
        """
        kinds = to_names(tta, "`tta`")
        options = EvaluateOptions(
            splits=to_names(splits, "`splits`"),
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
        Images whose label is not a class of the model are not scored. Images that overlap
        with the training and validation images are left out, as far as the overlap audit
        finds them.

        Args:
            dataset: Name of the dataset.
            label_map: A JSON file with the class of the model for each label, or null if
                the model has no such class. For the defaults, see `data.label_maps`.
            prevalences: A prevalence by target, such as {"melanoma": 0.02}, at which to
                give PPV and NPV, in addition to the standard prevalences.
            skip_overlap_audit: Whether to skip the overlap audit; the report then says so.

        Raises:
            ConfigError: The run was not evaluated or is in use, the dataset does not exist
                or is one that the run was trained on, a label has no entry in `label_map`
                and no default, another option is not valid, a custom metric fails, a file
                is damaged, or the image cache or the result cannot be written.
            DataError: A dataset is missing or damaged, the training images are not those of
                the run, the model file or the validation table is damaged, or no images
                remain to be scored.
            OSError: The model file is not readable, or a temporary file cannot be written.
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
        """Renders report.html, the figures and the model card.

        Args:
            headline: The split that the report shows first; by default the test split, or
                "out_of_fold" for a cross-validation.
            open: Whether to open the report in a browser.

        Returns:
            The path of report.html.

        Raises:
            ConfigError: The run was not evaluated (on `headline`) or is in use,
                authors.toml is not valid, or a file is damaged, has changed or cannot be
                written.
            DataError: A predictions table is missing or damaged.
        """
        with locked(self.path):
            path = render_report(self.path, headline)
        if open:
            webbrowser.open(path.resolve().as_uri())
        return path

    def checklists(self, names: str | Sequence[str] = (), headline: str = "") -> list[Path]:
        """Writes checklists of reporting standards, and returns the paths of the files.

        Args:
            names: One or several standards, such as "tripod-ai"; see
                docs/guides/evaluation.md. Checklists that exist are always written again.
            headline: The split that they describe first; see `report`.

        Raises:
            ConfigError: A standard does not exist, authors.toml is not valid, the run was
                not evaluated (on `headline`) or is in use, or a file is damaged or cannot
                be written.
        """
        with locked(self.path):
            results = load_results(self.path, headline)
            return render_checklists(results, to_names(names, "`names`"))

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
            ConfigError: There is not exactly one image, the image is unreadable, the class
                does not exist, the run was not evaluated, or the architecture of the model
                does not support Grad-CAM; see also `predict`.
            DataError: See `predict`.
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
        formats: str | Sequence[str] = ("saved_model",),
        *,
        tta: str = "",
        logit_adjustment: bool = False,
        ood: bool = True,
        operating_point: str = "sensitivity=0.90",
    ) -> dict[str, Path]:
        """Writes exports, checks their parity with the model, and returns paths by format.

        Call `report` afterward: the model card shows the parity.

        Args:
            formats: One or several of "saved_model", "litert", "litert_float16",
                "litert_int8_weights", "litert_int8" and "onnx".
            tta: "d4" to average the predictions for the eight orientations.
            logit_adjustment: Whether to adjust the logits, as evaluated.
            ood: Whether the export detects out-of-distribution images. If the evaluation
                switched OOD detection off, no export does, and neither does a LiteRT or
                ONNX file whose OOD distances differ too much from those of the model.
            operating_point: Operating point of the referral threshold, such as
                "sensitivity=0.90".

        Raises:
            ConfigError: The run was not evaluated with these options, the runs of an
                ensemble are not in its directory, a format does not exist or does not
                support the model, its packages are not installed, or the model cannot be
                written.
            DataError: The export does not reproduce the predictions of the model, or the
                dataset or a file is missing or has changed.
            OSError: A directory or the metadata of the export cannot be written.
        """
        require_text("tta", tta)
        require_text("operating_point", operating_point)
        spec = ExportSpec(
            workdir=self.path,
            runs=find_runs(self.path),
            tta=tta,
            logit_adjustment=logit_adjustment,
            ood=ood,
            operating_point=operating_point,
        )
        return dict(export(spec, to_names(formats, "`formats`"), self.data_dir))

    def summary(self, headline: str = "") -> str:
        """Returns the main scores as text; `headline` is the split to show first.

        Raises:
            ConfigError: The run was not evaluated (on `headline`), authors.toml is not
                valid, or a file is damaged.
        """
        return summary(load_results(self.path, headline))

    def _repr_html_(self) -> str:
        text = self.summary() if self.results else "not evaluated: run.evaluate()"
        style, name = "white-space: pre-wrap", html.escape(str(self.path))
        return f'<b>{name}</b><pre style="{style}">{html.escape(text)}</pre>'


def load(path: PathLike, data_dir: PathLike | None = None) -> Model:
    """Returns a `Run` for a directory that contains run.json, a `Model` for another path.

    A `Model` is loaded when it is first used; a path without a model is rejected only then.

    Args:
        path: The directory of a run, an ensemble or a cross-validation, a SavedModel, a
            directory of SavedModel versions, the model.keras of a run, or a LiteRT or ONNX
            file.
        data_dir: The directory of built datasets, for the evaluation and export of a run;
            by default the data directory of TFDS.

    Raises:
        ConfigError: The path does not exist, or an argument is a URL or not a path.
    """
    path = to_path(path)
    if (path / RUN_FILE).is_file():
        return Run(path, data_dir)
    if not path.exists():
        raise ConfigError(f"{path} does not exist. Expected a run directory or an export.")
    return Model(path)
