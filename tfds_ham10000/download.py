"""Downloading HAM10000 from Harvard Dataverse, and verifying the published files.

TFDS reads the sizes and SHA-256 of the images and metadata from `checksums.tsv`. For the
official test set only the MD5 is published: it is computed after the download, and a file
with another MD5 is deleted.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import requests
import tensorflow_datasets as tfds
from filelock import FileLock
from tensorflow_datasets.core.download import checksums, downloader, resource
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from tfds_ham10000.records import SourceError

BASE_URL = "https://dataverse.harvard.edu/api/access/datafile"
USER_AGENT = "Mozilla/5.0 (compatible; tfds_ham10000)"
"""Dataverse responds 403 to the default user agents of some libraries."""
MAX_RETRIES = 3
CHECKSUMS = Path(__file__).with_name("checksums.tsv")
ALTERNATIVE = (
    "Alternatively, download the files from Harvard Dataverse, doi:10.7910/DVN/DBW86T, "
    "into one folder and use --manual-dir DIR."
)


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    name: str
    address: str  # the part of the URL after `BASE_URL`
    md5: str | None = None  # if the SHA-256 is not in `checksums.tsv`

    @property
    def url(self) -> str:
        """The download URL."""
        return f"{BASE_URL}/{self.address}"


FILES = (
    RemoteFile("HAM10000_images_part_1.zip", "3172585"),
    RemoteFile("HAM10000_images_part_2.zip", "3172584"),
    RemoteFile("HAM10000_metadata.csv", "4338392?format=original"),
    RemoteFile(
        "ISIC2018_Task3_Test_Images.zip", "3855824", "0488b6f65849e310857d9207daa55a21"
    ),
    RemoteFile(
        "ISIC2018_Task3_Test_GroundTruth.csv", "6924466", "2b5663aacc9644740f27e355cf7f369a"
    ),
)


def fetch(dl_manager: tfds.download.DownloadManager) -> dict[str, Path]:
    """Downloads `FILES`, unless they have been downloaded before.

    Returns:
        The path of each file by its name, in lower case and without a suffix.

    Raises:
        SourceError: A file cannot be downloaded or differs from the published one.
        OSError: A file cannot be written.
    """
    folder = Path(dl_manager.download_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # Builds of several configs share the folder: the second one waits and reuses the files.
    with FileLock(folder / ".tfds_ham10000.lock"):
        # Sequential, so that the first failure ends the command.
        return {Path(file.name).stem.lower(): _fetch(dl_manager, file) for file in FILES}


def verify(folder: Path) -> list[str]:
    """Returns the names of the published files in a folder, after verifying checksums.

    Raises:
        SourceError: The SHA-256 (or MD5, if only that is published) of a file differs, or
            the folder contains no published file.
    """
    infos = checksums.load_url_infos(CHECKSUMS).values()
    sha256 = {info.filename: info.checksum for info in infos}
    present = [file for file in FILES if (folder / file.name).is_file()]
    modified = [
        file.name
        for file in present
        if _digest(folder / file.name, "md5") != file.md5
        and _digest(folder / file.name, "sha256") != sha256.get(file.name)
    ]
    if not present:
        raise SourceError(
            f"{folder} contains no file that Harvard Dataverse publishes. Expected at "
            f"least one of: {', '.join(file.name for file in FILES)}."
        )
    if modified:
        raise SourceError(
            f"{folder}: {', '.join(modified)} differ(s) from the files that Harvard "
            "Dataverse publishes. Download them again, or omit --verify."
        )
    return [file.name for file in present]


def _fetch(dl_manager: tfds.download.DownloadManager, file: RemoteFile) -> Path:
    try:
        # TFDS creates its own sessions and offers no argument for these two settings.
        with (
            mock.patch.object(
                requests.utils, "default_user_agent", return_value=USER_AGENT
            ),
            mock.patch.object(downloader, "MAX_RETRIES", MAX_RETRIES),
        ):
            path = Path(dl_manager.download(file.url))
        if file.md5 is not None and (md5 := _digest(path, "md5")) != file.md5:
            # Also delete TFDS's record of the file, or TFDS would reject the next download.
            path.with_name(f"{path.name}.INFO").unlink()
            path.unlink()
            raise DownloadError(f"Expected the MD5 {file.md5}. Received: {md5}")
    # RequestException: no connection, or an interrupted one.
    except (NonMatchingChecksumError, DownloadError, requests.RequestException) as error:
        raise SourceError(
            f"{file.name} cannot be downloaded from {file.url}, or is not the published "
            f"file: {error}. Run the command again when the network is available. "
            f"{ALTERNATIVE}"
        ) from error
    finally:  # delete the temporary folders of interrupted downloads
        partial = f"{resource.get_dl_fname(file.url)}.tmp.*"
        for folder in Path(dl_manager.download_dir).rglob(partial):
            shutil.rmtree(folder, ignore_errors=True)
    return path


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
