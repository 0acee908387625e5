"""Downloading HAM10000 from Harvard Dataverse, and telling published files from others.

The sizes and SHA-256 of the pictures and of the metadata are in `checksums.tsv`, where
TFDS looks for them. Of the official test set only the MD5 is published: it is computed
after the download, and a file that does not have it is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
import tensorflow_datasets as tfds
from filelock import FileLock
from tensorflow_datasets.core.download import checksums, downloader, resource
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from tfds_ham10000.records import SourceError

BASE_URL = "https://dataverse.harvard.edu/api/access/datafile"
USER_AGENT = "Mozilla/5.0 (compatible; tfds_ham10000)"
"""Dataverse answers 403 to the names of some libraries."""
MAX_RETRIES = 3
CHECKSUMS = Path(__file__).with_name("checksums.tsv")
OTHERWISE = (
    "Or download the files another way, put them into one folder, and give it: "
    "--manual-dir DIR. They are at Harvard Dataverse, doi:10.7910/DVN/DBW86T."
)


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: Its published name.
        address: What follows `BASE_URL`.
        md5: Its MD5, where `checksums.tsv` does not have its SHA-256.
    """

    name: str
    address: str
    md5: str | None = None

    @property
    def url(self) -> str:
        """Where to download it."""
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
    """Downloads `FILES`, those that were not downloaded before.

    Returns:
        Where each is, by its name in lower case without a suffix.

    Raises:
        SourceError: One cannot be downloaded, or is not the published one.
        OSError: It cannot be written.
    """
    folder = Path(dl_manager.download_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # Builds of several configs share the folder: the second waits, and finds the files.
    with FileLock(folder / ".tfds_ham10000.lock"):
        # One after the other, so that a failure ends the command at once.
        return {Path(file.name).stem.lower(): _fetch(dl_manager, file) for file in FILES}


def verify(folder: Path) -> list[str]:
    """Returns the names of the published files in a folder, which all are unchanged.

    Raises:
        SourceError: One has another SHA-256 (or MD5, where only that is published), or
            there is none of them.
    """
    sha256 = {
        info.filename: info.checksum
        for info in checksums.load_url_infos(CHECKSUMS).values()
    }
    present = [file for file in FILES if (folder / file.name).is_file()]
    wrong = [
        file.name
        for file in present
        if (_digest(folder / file.name, "md5") != file.md5)
        if (_digest(folder / file.name, "sha256") != sha256.get(file.name))
    ]
    if wrong or not present:
        what = f"{', '.join(wrong)} differ(s) from" if wrong else "there is none of"
        raise SourceError(
            f"{folder}: {what} the files that Harvard Dataverse publishes. Expected at "
            f"least one of {', '.join(file.name for file in FILES)}, each unchanged. "
            "Download them again, or leave out --verify."
        )
    return [file.name for file in present]


def _fetch(dl_manager: tfds.download.DownloadManager, file: RemoteFile) -> Path:
    try:
        with _polite_requests():
            path = Path(dl_manager.download(file.url))
    except NonMatchingChecksumError as error:
        raise SourceError(
            f"{file.url}: what was downloaded is not {file.name} as published: {error}. "
            f"Run the command again. {OTHERWISE}"
        ) from error
    # RequestException: no connection, or one that was cut.
    except (DownloadError, requests.RequestException) as error:
        raise SourceError(
            f"{file.name} cannot be downloaded from {file.url} ({error}). Run the command "
            f"again when the network is there. {OTHERWISE}"
        ) from error
    finally:
        _remove_unfinished(Path(dl_manager.download_dir), file.url)
    if file.md5 is not None and (found := _digest(path, "md5")) != file.md5:
        # With what TFDS noted of it, or it would refuse the right file next time.
        path.with_name(f"{path.name}.INFO").unlink()
        path.unlink()
        raise SourceError(
            f"{file.url}: what was downloaded is not {file.name} as published: its MD5 is "
            f"{found}, expected {file.md5}. Run the command again. {OTHERWISE}"
        )
    return path


@contextlib.contextmanager
def _polite_requests() -> Iterator[None]:
    """Lets TFDS name itself as Dataverse accepts, and give up before minutes pass.

    TFDS makes its own sessions and passes neither headers nor the number of retries.
    """
    user_agent, retries = requests.utils.default_user_agent, downloader.MAX_RETRIES
    requests.utils.default_user_agent = lambda *_: USER_AGENT
    downloader.MAX_RETRIES = MAX_RETRIES
    try:
        yield
    finally:
        requests.utils.default_user_agent = user_agent
        downloader.MAX_RETRIES = retries


def _remove_unfinished(folder: Path, url: str) -> None:
    """Removes what a download that was cut, or killed, left behind."""
    for path in folder.rglob(f"{resource.get_dl_fname(url)}.tmp.*"):
        shutil.rmtree(path, ignore_errors=True)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
