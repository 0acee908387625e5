"""Downloading HAM10000 from Harvard Dataverse, and verifying the published files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from tfds_ham10000.locks import hold_lock
from tfds_ham10000.progress import TerminalBar
from tfds_ham10000.records import SourceError

BASE_URL = "https://dataverse.harvard.edu/api/access/datafile"
USER_AGENT = "Mozilla/5.0 (compatible; tfds_ham10000)"
"""Dataverse responds with 403 (Forbidden) to the default user agents of some libraries."""
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables from which `requests` takes the TLS certificates, in this order."""
MAX_RETRIES = 3
TIMEOUT_SECONDS = 60
BLOCK_SIZE = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file that Harvard Dataverse publishes."""

    name: str
    address: str  # the part of the URL after `BASE_URL`
    checksum: str  # "<algorithm>:<hexadecimal digest>"

    @property
    def url(self) -> str:
        """The download URL."""
        return f"{BASE_URL}/{self.address}"

    def is_identical(self, path: Path) -> bool:
        """Returns whether a local file has the checksum of the published file.

        Raises:
            OSError: The file cannot be read.
        """
        algorithm, digest = self.checksum.split(":")
        start = functools.partial(hashlib.new, algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            return hashlib.file_digest(file, start).hexdigest() == digest


@contextlib.contextmanager
def permit_md5() -> Iterator[None]:
    """Permits MD5 in the block if the system forbids it for security (FIPS mode).

    TFDS shuffles examples by MD5, and Keras detects damaged downloads by it.
    """
    md5 = hashlib.md5
    try:
        md5()
    except ValueError:
        hashlib.md5 = functools.partial(md5, usedforsecurity=False)
    try:
        yield
    finally:
        hashlib.md5 = md5


FILES = (
    RemoteFile(
        "HAM10000_images_part_1.zip",
        "3172585",
        "sha256:6202a599129c2efe81c25aea8586d422eeda8a4fae5df49dd7b7bbf956d419db",
    ),
    RemoteFile(
        "HAM10000_images_part_2.zip",
        "3172584",
        "sha256:9677f30118c21ecc667a147de369d89acb25efab046fd32f6b13ad677ce2d6d0",
    ),
    RemoteFile(
        "HAM10000_metadata.csv",
        "4338392?format=original",
        "sha256:de17ec44cb25ea9c3f6378ba18d69224c740afd62e86ec2edc6a894d6aa663d3",
    ),
    RemoteFile(
        "ISIC2018_Task3_Test_Images.zip",
        "3855824",
        "md5:0488b6f65849e310857d9207daa55a21",
    ),
    RemoteFile(
        "ISIC2018_Task3_Test_GroundTruth.csv",
        "6924466",
        "md5:2b5663aacc9644740f27e355cf7f369a",
    ),
)


def fetch(folder: Path) -> dict[str, Path]:
    """Downloads each of `FILES` that is not yet in `folder`, and verifies its checksum.

    Existing files are not verified (see `verify`). Waits while another process downloads
    files to `folder`.

    Returns:
        The path of each of `FILES`, by lower-case name without a suffix.

    Raises:
        SourceError: A download fails, or a downloaded file differs from the published file.
        OSError: A file cannot be written or read.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def wait(hint: str) -> None:
        text = f"Waiting for another process to download the files to {folder}. {hint}"
        print(text.rstrip(), file=sys.stderr)

    # Builds of different configs share the directory: the second build waits for the first
    # and reuses its files.
    with hold_lock(folder / ".lock", wait), requests.Session() as session:
        session.headers["User-Agent"] = USER_AGENT
        retry = Retry(
            MAX_RETRIES, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        return {
            Path(file.name).stem.lower(): _fetch(session, file, folder / file.name)
            for file in FILES
        }


def verify(folder: Path) -> list[str]:
    """Verifies the checksums of the published files in a directory; returns their names.

    Raises:
        SourceError: A file differs from the published file of this name, or the directory
            contains none of `FILES`.
        OSError: A file cannot be read.
    """
    present = [file for file in FILES if (folder / file.name).is_file()]
    if not present:
        raise SourceError(
            f"{folder} contains none of the files that Harvard Dataverse publishes. "
            f"Expected at least one of: {', '.join(file.name for file in FILES)}. Omit "
            "--verify for other files."
        )
    modified = [f.name for f in present if not f.is_identical(folder / f.name)]
    if modified:
        raise SourceError(
            f"{folder}: {', '.join(modified)} differ(s) from the files that Harvard "
            "Dataverse publishes. Download them again, or omit --verify."
        )
    return [file.name for file in present]


def _fetch(session: requests.Session, file: RemoteFile, path: Path) -> Path:
    if path.exists():
        return path
    partial = path.with_suffix(".part")
    try:
        with _get(session, file.url) as response:
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", 0))
            with (
                partial.open("wb") as raw,
                TerminalBar.wrapattr(
                    raw, "write", size, desc=f"Downloading {file.name}"
                ) as output,
            ):
                for block in response.iter_content(BLOCK_SIZE):
                    output.write(block)
        if not file.is_identical(partial):
            raise requests.RequestException(f"its checksum is not {file.checksum}")
        partial.rename(path)
    except requests.RequestException as error:
        cause = str(error).rstrip(".")
        if "SOCKS support" in cause:
            cause = f"{cause} (pip install 'requests[socks]')"
        raise SourceError(
            f"{file.name} cannot be downloaded from {file.url}, or differs from the "
            f"published file: {cause}. Check the network and run the command again, or "
            "download all files from Harvard Dataverse, doi:10.7910/DVN/DBW86T, into one "
            "directory and use --manual-dir DIR."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _get(session: requests.Session, url: str) -> requests.Response:
    try:
        return session.get(url, stream=True, timeout=TIMEOUT_SECONDS)
    except requests.RequestException:
        raise
    except OSError as error:  # there is no file with TLS certificates
        name = next(filter(os.environ.get, CA_VARIABLES), None)
        if name is None:
            raise requests.RequestException(error) from error
        raise SourceError(
            f"{url} cannot be downloaded, because the environment variable {name} does not "
            f"name a file of TLS certificates: {os.environ[name]}. Correct or unset it."
        ) from error
