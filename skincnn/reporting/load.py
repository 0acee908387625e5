"""The content of a report, read from a run directory."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field, ValidationError

from skincnn.commands import command_line
from skincnn.config import Config
from skincnn.data.leakage import LeakageAudit, SplitLeakage
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import MembersResult
from skincnn.evaluation.external.result import ExternalResult, read_external
from skincnn.evaluation.results import (
    FOLDER,
    OodResult,
    SplitResult,
    read_result,
    read_split_results,
    result_path,
    split_name,
)
from skincnn.evaluation.robustness import CorruptionResult
from skincnn.inference.ood_images import OOD_SETS, OOD_TABLE
from skincnn.inference.predictions import file_sha256, read_predictions, table_path
from skincnn.inference.run_dir import RunInfo, read_run_config, read_run_info
from skincnn.lookup import suggest
from skincnn.records import Part, describe_error, keep_named
from skincnn.reporting.parity_result import ParityResult, read_parity

AUTHORS_FILE = "authors.toml"


class Authors(Part):
    """authors.toml: what only the authors know, for the model card and the checklists.

    Attributes:
        citation: How to cite the model.
        contact: Whom to ask about the model.
        ethics: Ethical approval and informed consent.
        funding: Sources of funding, and the role of the funders.
        conflicts: Conflicts of interest, including commercial ones.
        protocol: Where the study protocol is, or a statement that none exists.
        registration: Register and number, or that the study is not registered.
        items: Answers to items of reporting standards, by standard and item, such as
            "tripod-ai" and "3a".
    """

    citation: str = ""
    contact: str = ""
    ethics: str = ""
    funding: str = ""
    conflicts: str = ""
    protocol: str = ""
    registration: str = ""
    items: Mapping[str, dict[str, str]] = Field(default={})


@dataclass(frozen=True, eq=False)
class RunResults:
    """The results of a run, an ensemble or a cross-validation.

    Attributes:
        config: Configuration of the model, or of the first of several models.
        headline: The result that the report shows first.
        splits: Result of the model as is on each split: headline first, "val" last.
        variants: Results of the headline split with test-time augmentation or logit
            adjustment.
        corruptions: Results on corrupted images of the headline split, if any.
        ood: Results on out-of-distribution images for the headline split, starting with
            the built-in images. `splits` of the first result contains all evaluated splits
            except validation.
        members: Scores of the models of an ensemble or a cross-validation; None for a run.
        parity: Parity of each export with the model.
        external: Results on other datasets.
        authors: Content of authors.toml; all fields are empty without this file.
    """

    workdir: Path
    info: RunInfo
    config: Config
    headline: SplitResult
    splits: dict[str, SplitResult]
    variants: tuple[SplitResult, ...]
    corruptions: CorruptionResult | None
    ood: tuple[OodResult, ...]
    members: MembersResult | None
    parity: tuple[ParityResult, ...]
    external: tuple[ExternalResult, ...]
    authors: Authors

    @property
    def configs(self) -> tuple[Config, ...]:
        """The configuration of each model."""
        return tuple(member.config for member in self.info.members) or (self.config,)

    @property
    def clinical_metadata(self) -> str:
        """Whether clinical metadata are inputs of "all", "some" or "none" of the models."""
        used = {config.model.clinical_metadata for config in self.configs}
        return "some" if len(used) > 1 else "all" if used == {True} else "none"

    @property
    def leakage(self) -> LeakageAudit | SplitLeakage:
        """Leakage of the headline split; for "test" and "out_of_fold", the run's audit."""
        return self.headline.leakage or self.info.audit

    def read_predictions(self, result: SplitResult) -> pd.DataFrame:
        """Reads the predictions table of a result.

        Raises:
            ConfigError: The file has changed since the result was computed.
            DataError: The file is missing or damaged.
        """
        name = split_name(result.split, result.variant)
        path = table_path(self.workdir, name)
        table = read_predictions(path)
        if file_sha256(path) != result.predictions_sha256:
            raise ConfigError(
                f"{path} has changed since {result_path(self.workdir, name)} was computed "
                "from it. Restore the file, or evaluate again."
            )
        return table


def load_results(workdir: Path, headline: str = "") -> RunResults:
    """Returns the results of an evaluated run, an ensemble or a cross-validation.

    `headline` is the split to show first; by default, "out_of_fold" for a cross-validation
    and "test" otherwise.

    Raises:
        ConfigError: The directory contains no evaluated run, a file is missing, damaged or
            of a different schema version, authors.toml is not valid, or the headline is
            "val" or a split that was not evaluated.
    """
    info = read_run_info(workdir)
    results = read_split_results(workdir)
    splits = {result.split: result for result in results.values() if not result.variant}
    default = "out_of_fold" if info.kind == "cross_validation" else "test"
    headline = _check_headline(headline or default, splits, workdir)
    splits = dict(
        sorted(splits.items(), key=lambda item: (item[0] == "val", item[0] != headline))
    )
    config = info.members[0].config if info.members else read_run_config(workdir)
    corruptions = members = None
    if result_path(workdir, f"{headline}.corruptions").is_file():
        corruptions = read_result(workdir, f"{headline}.corruptions", CorruptionResult)
    if result_path(workdir, "members").is_file():
        members = read_result(workdir, "members", MembersResult)
    return RunResults(
        workdir=workdir,
        info=info,
        config=config,
        headline=splits[headline],
        splits=splits,
        variants=tuple(
            result
            for result in results.values()
            if result.variant and result.split == headline
        ),
        corruptions=corruptions,
        ood=_read_ood(workdir, headline),
        members=members,
        parity=tuple(read_parity(workdir)),
        external=read_external(workdir),
        authors=read_authors(workdir),
    )


def advise_report(workdir: Path, *flags: str) -> str:
    """Returns what to do after a file of the report or a checklist could not be written.

    `flags` are the flags with which `skincnn report` writes this file.
    """
    command = command_line("report", workdir, *flags)
    return f"The results are complete; afterward, run: {command}"


def read_authors(workdir: Path) -> Authors:
    """Returns the content of authors.toml in a run directory; empty without this file.

    Raises:
        ConfigError: The file cannot be read as TOML, or a field is unknown or has the wrong
            type.
    """
    path = workdir / AUTHORS_FILE
    if not path.is_file():
        return Authors()
    try:
        return Authors.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {describe_error(error)} Expected the fields "
            f"{', '.join(Authors.model_fields)}."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read as TOML: {error}. Correct or remove the file."
        ) from error


def _check_headline(headline: str, splits: dict[str, SplitResult], workdir: Path) -> str:
    """Returns the headline split after checking that it and validation have results."""
    valid = [split for split in splits if split != "val"]
    if not valid or "val" not in splits:
        missing = result_path(workdir, "val" if valid else headline)
        raise ConfigError(
            f"{workdir} was not evaluated: {missing} is missing. Run: "
            f"{command_line('evaluate', workdir)}"
        )
    if headline not in valid:
        raise ConfigError(
            f"The headline split must be one of: {', '.join(valid)}. Received: {headline}."
            f"{suggest(valid, headline)} "
            "To evaluate a run on another split, use `skincnn evaluate --split SPLIT`."
        )
    return headline


def _read_ood(workdir: Path, headline: str) -> tuple[OodResult, ...]:
    """Returns the results on OOD images for the headline split, if any.

    The shares of rejected images in the other splits are added to the first result.
    """
    first = OOD_TABLE if headline == "test" else split_name(headline, OOD_TABLE)
    ood = [
        *_read_named_ood(workdir, f"{first}.json"),
        *_read_named_ood(workdir, f"{first}.*.json"),
        *_read_named_ood(workdir, f"{first}[!.]*.json"),  # copies, which are left out
    ]
    if ood:
        splits = dict(ood[0].splits)
        for pattern in (f"{OOD_TABLE}.json", f"[!.]*.{OOD_TABLE}.json"):
            for result in _read_named_ood(workdir, pattern):
                splits |= result.splits
        ood[0] = ood[0].model_copy(update={"splits": splits})
    return tuple(ood)


def _read_named_ood(workdir: Path, pattern: str) -> Iterable[OodResult]:
    paths = sorted((workdir / FOLDER).glob(pattern))
    results = {path: read_result(workdir, path.stem, OodResult) for path in paths}
    return keep_named(results, _ood_name).values()


def _ood_name(result: OodResult) -> str:
    """Returns the name of a result, such as "ood" or "fold_3.ood.<directory>"."""
    split, first = next(iter(result.splits)), result.sets[0].name
    name = OOD_TABLE if first in OOD_SETS else f"{OOD_TABLE}.{first}"
    return name if split == "test" else split_name(split, name)
