"""Builds a dataset for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import ConfigError
from skincnn.paths import to_path

if TYPE_CHECKING:
    from skincnn.classes import LesionClass
    from tfds_ham10000.ham10000_dataset_builder import BuildReport
    from tfds_ham10000.table.options import TableOptions


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Builds a dataset on disk: checks all images and writes ten folds.

    Your own images are in one directory per class (--config folder), or are listed in a
    table (--config table). HAM10000 from Harvard Dataverse or Kaggle and the ISIC
    challenges of 2018 and 2019 have configs of their own, and are recognized by their file
    names. Other published datasets are recognized by their tables, with --config table:
    exports of the ISIC Archive, the ISIC challenges of 2016, 2017, 2020, 2024 and 2025
    (MILK10k) and the test sets of 2018 and 2019, PAD-UFES-20, BCN20000, Derm7pt, PH2,
    Fitzpatrick17k, DDI and DermaMNIST. ZIP archives of images need not be unpacked, except
    for --config folder. Unpack archives that contain your own table, other archives, or all
    files of HAM10000 or of a challenge of 2018 or 2019, such as a download from Kaggle.

    For example:
      skincnn prepare-data --config isic2018 --manual-dir DIR
      skincnn prepare-data --config table --name clinic_a --manual-dir DIR
    """

    config: str = "demo"
    """demo, demo_tiny: synthetic images; isic2018: HAM10000; isic2019: ISIC 2019;
    isic2019_without_ham10000: the images of isic2019 that are not in HAM10000; folder: your
    own images, with one directory per class; table: your own images, with a table of one
    row per image, or a published dataset that is recognized. The suffix _256 or _400 of a
    config of ISIC images limits the longest side in pixels."""
    name: str | None = None
    """Name of your own dataset, for --config folder or table; by default, the name of the
    config, or of the published dataset that is recognized. To train on the dataset, use
    `skincnn train --data.datasets NAME`."""
    manual_dir: Path | None = None
    """Directory of the published files or of your own images. If omitted, the files of
    isic2018 are downloaded (3 GB), unless the manual directory of TFDS contains them."""
    data_dir: Path | None = None
    """Directory of the built datasets; by default, that of TFDS."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """What to do if images cannot be decoded. fail: name the first ten and exit; skip: list
    and omit these images, and fail only if they are more than 1 % of all images."""
    table: str | None = None
    """The table (.csv, .tsv, .xlsx or .parquet, or .npz of DermaMNIST), relative to
    --manual-dir; by default, that of a published dataset that is recognized, or the only
    table in --manual-dir."""
    columns: tuple[str, ...] = ()
    """Names of columns, if they are not recognized, such as image=file label=diagnosis. The
    fields are image, label, lesion_id, patient_id, age, sex, site, split (train, val or
    test), skin_type (Fitzpatrick), dx_type (how the diagnosis was confirmed), dataset (the
    source of an image) and image_type. age= leaves out the age."""
    label_map: Path | None = None
    """JSON file with the class of each label of the table, or null to leave out its
    images."""
    group_by: Literal["patient", "lesion"] | None = None
    """patient: keep all images of a patient in one fold (the default if the patient of any
    image is known); lesion: keep all images of a lesion in one fold, and ignore
    patients."""
    verify: bool = False
    """Verify the checksums of the files from Harvard Dataverse (HAM10000) in
    --manual-dir."""


def command() -> None:
    """Builds the dataset, and prints its directory, its splits and a report."""
    arguments = parse_arguments(Arguments)
    common.load_tensorflow()
    from skincnn.classes import describe
    from skincnn.data.datasets import built_datasets, declared_classes, prepare_dataset

    if arguments.verify:
        _verify(arguments.manual_dir)
    options = _table_options(arguments)
    built = built_datasets(arguments.data_dir)
    builder = prepare_dataset(
        arguments.config,
        arguments.data_dir,
        arguments.manual_dir,
        name=arguments.name,
        on_bad_image=arguments.on_bad_image,
        table_options=options,
    )
    if builder.builder_config.name in built:
        print("The dataset already exists. To build it again, delete its directory first.")
    if builder.builder_config.synthetic:
        print("SYNTHETIC images: their scores have no medical meaning.")
    print(f"{builder.info.full_name} is in {builder.data_dir}")
    for split_name, split in builder.info.splits.items():
        print(f"  {split_name}: {split.num_examples} images")
    names = builder.info.features["label"].names
    classes = describe(names, declared_classes(builder))
    print("\n".join((*_describe_classes(classes), *_describe(builder.read_report()))))


def _verify(manual_dir: Path | None) -> None:
    from tfds_ham10000 import download

    if manual_dir is None:
        raise ConfigError(
            "--verify requires --manual-dir, the directory of the files to verify. "
            "Downloaded files are always verified."
        )
    print(f"Checksums verified: {', '.join(download.verify(manual_dir))}")


def _table_options(arguments: Arguments) -> TableOptions:
    """Returns the options of the table.

    Raises:
        ConfigError: An option is given with a --config other than table, or --columns is
            not valid.
        OptionError: See `read_label_map`.
    """
    from tfds_ham10000.table.labels import read_label_map
    from tfds_ham10000.table.options import TableOptions

    columns = dict(pair.split("=", 1) for pair in arguments.columns if "=" in pair)
    if len(columns) < len(arguments.columns):
        raise ConfigError(
            "--columns must be pairs field=column with different fields, such as "
            f"label=diagnosis. Received: {' '.join(arguments.columns)}."
        )
    label_map = {} if arguments.label_map is None else read_label_map(arguments.label_map)
    options = TableOptions(
        table=arguments.table and str(to_path(arguments.table)),
        columns=columns,
        label_map=label_map,
        group_by=arguments.group_by,
    )
    if options != TableOptions() and arguments.config != "table":
        raise ConfigError(
            "--table, --columns, --label-map and --group-by require --config table. "
            f"Received: --config {arguments.config}."
        )
    return options


def _describe_classes(classes: Mapping[str, LesionClass]) -> Iterator[str]:
    """Yields a line with all classes, and one with those of unknown malignancy, if any."""
    yield f"  classes: {', '.join(classes)}"
    unknown = [name for name, lesion in classes.items() if lesion.malignant is None]
    if unknown:
        yield (
            f"  note: not known whether malignant: {', '.join(unknown)}. Correct the name, "
            "or declare the class in classes.json, and build the dataset again."
        )


def _describe(report: BuildReport) -> Iterator[str]:
    """Yields the lines of the report of a build."""
    from skincnn.data.identifiers import Identifiers
    from skincnn.reporting.text.identifier_text import describe_identifiers

    if report.source is not None:
        yield f"Built from {report.source}"
        yield f"  {report.changed} image(s) are not stored byte for byte"
    if report.layout:
        yield f"  recognized: {report.layout}"
    if report.columns:
        pairs = (f"{field}={column}" for field, column in report.columns.items())
        yield f"  columns: {', '.join(pairs)}"
    known = Identifiers(
        num_images=report.num_images,
        with_lesion=report.num_with_lesion,
        with_patient=report.num_with_patient,
        unit=report.group_by,
    )
    yield f"  {describe_identifiers(known)}"
    for reason, count in report.excluded.items():
        yield f"  left out: {count} image(s), {reason}"
    for a, b, label_a, label_b in report.label_conflicts:
        yield f"  contradictory labels of near-duplicates: {a} ({label_a}), {b} ({label_b})"
    for image_id, reason in report.left_out.items():
        yield f"  skipped {image_id}: {reason}"
    for note in report.notes:
        yield f"  note: {note}"
    missing = ", ".join(f"{name} {count}" for name, count in report.missing.items())
    yield f"  missing values: {missing}"
