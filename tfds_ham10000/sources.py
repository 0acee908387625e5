"""Where the pictures are, how the published files are read, and what is refused."""

from __future__ import annotations

import csv
import difflib
import io
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

CLASS_NAMES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""HAM10000's diagnoses (`dx`), in alphabetical order, which is the order of labels."""

METADATA_FILE = "HAM10000_metadata.csv"
IMAGE_ARCHIVES = ("HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip")
COLUMNS = (
    "lesion_id",
    "image_id",
    "dx",
    "dx_type",
    "age",
    "sex",
    "localization",
    "dataset",
)
WHERE_TO_GET = (
    "Both archives and the CSV are at Harvard Dataverse, doi:10.7910/DVN/DBW86T "
    "(licence CC BY-NC 4.0)."
)
MAX_PIXELS = 50_000_000
MAX_BYTES = 30_000_000


class SourceError(ValueError):
    """Source files that are missing, incomplete or damaged."""

    exit_code = 3


@dataclass(frozen=True)
class Record:
    """What is known of one picture.

    Attributes:
        image_id: The picture's name, without a suffix; unique.
        lesion_id: The lesion that the picture shows; several pictures may share it.
        dx: The diagnosis, one of `CLASS_NAMES`.
        dx_type: How the diagnosis was made ("histo", "follow_up", ...).
        age: The patient's age in years; NaN where it is missing.
        sex: "female", "male" or "unknown".
        localization: The site on the body, or "unknown".
        dataset: The collection that the picture comes from.
    """

    image_id: str
    lesion_id: str
    dx: str
    dx_type: str
    age: float
    sex: str
    localization: str
    dataset: str


class ImageArchives:
    """The JPEG files of some zip archives, by image_id."""

    def __init__(self, paths: Iterable[Path]):
        """Opens the archives and lists their members; reads no picture.

        Raises:
            SourceError: A file is no zip archive, or two members share an image_id.
        """
        self._members: dict[str, tuple[zipfile.ZipFile, str]] = {}
        for path in paths:
            for archive, name in _jpeg_members(path):
                image_id = PurePosixPath(name).stem
                if image_id in self._members:
                    raise SourceError(
                        f"{path}: the picture {image_id!r} is in the archives twice. "
                        "Expected each picture once; download the archives again."
                    )
                self._members[image_id] = (archive, name)

    @property
    def image_ids(self) -> set[str]:
        """The image_id of each picture."""
        return set(self._members)

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of a picture's file, as they are in the archive.

        Raises:
            SourceError: The member is larger than 30 MB or its checksum is wrong.
        """
        archive, name = self._members[image_id]
        size = archive.getinfo(name).file_size
        if size > MAX_BYTES:
            raise SourceError(f"{size} bytes, expected at most {MAX_BYTES}")
        try:
            return archive.read(name)
        # zlib: damaged; RuntimeError: encrypted; NotImplementedError: unknown compression.
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise SourceError(f"cannot be unpacked ({error})") from error


def read_ham10000(folder: Path) -> tuple[list[Record], ImageArchives]:
    """Returns the records of HAM10000, sorted by image_id, and its pictures.

    Args:
        folder: Holds the two archives and the CSV under their published names.

    Raises:
        SourceError: The folder or a file is missing, a row is wrong, or the CSV and the
            archives do not name the same pictures.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{folder} is not a folder. Expected the folder that holds "
            f"{', '.join((*IMAGE_ARCHIVES, METADATA_FILE))}. {WHERE_TO_GET}"
        )
    present = sorted(path.name for path in folder.iterdir())
    missing = [name for name in (*IMAGE_ARCHIVES, METADATA_FILE) if name not in present]
    if missing:
        raise SourceError(
            f"{folder} lacks {', '.join(missing)}. Found: {_some(present) or 'nothing'}. "
            f"{WHERE_TO_GET}"
        )
    records = read_metadata(folder / METADATA_FILE)
    images = ImageArchives(folder / name for name in IMAGE_ARCHIVES)
    _check_same_pictures(records, images, folder)
    return records, images


def read_metadata(path: Path) -> list[Record]:
    """Returns the rows of `HAM10000_metadata.csv`, sorted by image_id.

    Empty cells become NaN (age) or "unknown".

    Raises:
        SourceError: A column is missing, an image_id stands twice, a label or an age
            cannot be understood, or a lesion has two diagnoses. Names the file and line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            records = _parse_all(csv.DictReader(file), path)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise SourceError(
            f"{path} cannot be read as a CSV file in UTF-8 ({error}). {WHERE_TO_GET}"
        ) from error
    if not records:
        raise SourceError(f"{path} has no rows. Expected one for each picture.")
    _check_unique(records, path)
    return sorted(records, key=lambda record: record.image_id)


def check_images(records: Iterable[Record], images: ImageArchives) -> None:
    """Decodes each picture once, so that a damaged one is found before training.

    Raises:
        SourceError: Some pictures are no JPEG files that can be read to the end, are
            larger than 30 MB or 50 megapixels; names the first ten and counts them all.
    """
    bad = []
    for record in tqdm(list(records), desc="Checking pictures", unit="img"):
        try:
            _decode(images.read(record.image_id))
        except SourceError as error:
            bad.append(f"{record.image_id}: {error}")
    if bad:
        raise SourceError(
            f"{len(bad)} picture(s) cannot be used: {_some(bad, '; ')}. Expected JPEG "
            "files that can be read to the end. Download the archives again."
        )


def _jpeg_members(path: Path) -> Iterator[tuple[zipfile.ZipFile, str]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{path} is not a zip archive ({error}). Download it again."
        ) from error
    for name in archive.namelist():
        # macOS adds hidden copies of each file under __MACOSX/._name.
        hidden = PurePosixPath(name).name.startswith(".")
        if name.lower().endswith((".jpg", ".jpeg")) and not hidden:
            yield archive, name


def _parse_all(reader: csv.DictReader[str], path: Path) -> list[Record]:
    found = reader.fieldnames or []
    lacking = [column for column in COLUMNS if column not in found]
    if lacking:
        raise SourceError(
            f"{path} lacks the column(s) {', '.join(lacking)}. Expected: "
            f"{', '.join(COLUMNS)}. Found: {', '.join(found) or 'an empty file'}."
        )
    return [_parse(row, f"{path}, line {reader.line_num}") for row in reader]


def _parse(row: Mapping[str, str | None], where: str) -> Record:
    cells = {name: (row[name] or "").strip() for name in COLUMNS}
    if not cells["image_id"] or not cells["lesion_id"]:
        raise SourceError(f"{where}: image_id and lesion_id must not be empty.")
    if cells["dx"] not in CLASS_NAMES:
        nearest = difflib.get_close_matches(cells["dx"], CLASS_NAMES, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise SourceError(
            f"{where}: unknown label dx={cells['dx']!r} of {cells['image_id']}. Expected "
            f"one of: {', '.join(CLASS_NAMES)}.{hint}"
        )
    try:
        age = float(cells.pop("age") or "nan")
    except ValueError as error:
        raise SourceError(
            f"{where}: the age of {cells['image_id']} must be a number of years or "
            f"empty ({error})."
        ) from error
    if age < 0 or math.isinf(age):
        raise SourceError(f"{where}: impossible age {age} of {cells['image_id']}.")
    return Record(age=age, **{name: cell or "unknown" for name, cell in cells.items()})


def _check_unique(records: list[Record], path: Path) -> None:
    counts = Counter(record.image_id for record in records)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    if twice:
        raise SourceError(
            f"{path}: {len(twice)} image_id(s) stand in several rows: {_some(twice)}. "
            "Expected one row for each picture."
        )
    diagnoses = {record.lesion_id: record.dx for record in records}
    torn = sorted({r.lesion_id for r in records if r.dx != diagnoses[r.lesion_id]})
    if torn:
        raise SourceError(
            f"{path}: {len(torn)} lesion(s) have two diagnoses: {_some(torn)}. "
            "Expected one `dx` for all pictures of a lesion."
        )


def _check_same_pictures(
    records: list[Record], images: ImageArchives, folder: Path
) -> None:
    listed = {record.image_id for record in records}
    for what, ids in (
        ("in the CSV but not in the archives", listed - images.image_ids),
        ("in the archives but not in the CSV", images.image_ids - listed),
    ):
        if ids:
            raise SourceError(
                f"{folder}: {len(ids)} picture(s) are {what}: {_some(sorted(ids))}. "
                f"Expected the same pictures in both. {WHERE_TO_GET}"
            )


def _decode(content: bytes) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SourceError(
                    f"{image.width}x{image.height} pixels, expected at most {MAX_PIXELS}"
                )
            image.load()
    except UnidentifiedImageError as error:
        raise SourceError("is no JPEG file") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(f"cannot be decoded ({error})") from error


def _some(names: list[str], separator: str = ", ", limit: int = 10) -> str:
    more = f"{separator}... ({len(names)} in all)" if len(names) > limit else ""
    return separator.join(names[:limit]) + more
