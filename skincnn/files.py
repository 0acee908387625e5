"""Atomic writes, locks and checks of files and directories."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skincnn.errors import ConfigError, DataError
from skincnn.paths import real_path, require_usable_path
from skincnn.write_errors import explain_write_errors

if TYPE_CHECKING:
    import numpy.typing as npt

NO_RENAME = (errno.EEXIST, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
NO_CHMOD = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Error numbers of file systems that cannot replace a file by renaming, cannot sync, or
refuse to change the mode of a file."""
MARGIN = 2**22
"""Number of bytes by which a file may exceed the size of the arrays in it."""

CORRECT_OR_COPY = "Correct the permissions, or copy the run (cp -r) and use the copy."


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path; the file written to it replaces `path` after the block.

    If `path` is a symbolic link, its target is replaced. The temporary file is in the same
    directory as the replaced file; the directory is created if necessary. An existing file
    keeps its permissions, and its owner if this is permitted.

    The temporary file is synced before it is renamed, if the file system supports this; a
    crash or a full disk then never leaves an incomplete file at `path`. If the block raises
    an exception, `path` is unchanged.

    Raises:
        OSError: The file cannot be written. Its errno is ENOTSUP if the file system cannot
            replace a file by renaming another one.
    """
    target = _link_target(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name is random, because processes in containers may have the same ID. The suffixes
    # are those of the file, from which Keras infers the file format.
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    existing = target.stat() if target.exists() else None
    # The content of an existing file may be secret, also while it is written.
    temporary.touch(0o666 if existing is None else 0o600, exist_ok=False)
    try:
        yield temporary
        if existing is not None:
            _set_permissions(temporary, existing)
        _sync(temporary)
        try:
            temporary.replace(target)
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            text = "the file system cannot replace a file by renaming"
            raise OSError(errno.ENOTSUP, text, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_space(path: Path, num_bytes: int) -> None:
    """Checks the free space of a disk before a library writes `num_bytes` to `path`.

    HDF5 prints messages and crashes if the disk becomes full while it writes a file.

    Raises:
        OSError: The disk is full, or the parent directory of `path` does not exist.
    """
    # Here, because importing the dataset builder takes a second. --help does not need it.
    from tfds_ham10000.locks import free_space

    if free_space(path.parent) < num_bytes + MARGIN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds an exclusive lock on a directory, which is created if it does not exist.

    The lock only affects processes that use this function; see
    `tfds_ham10000.locks.hold_lock`. A directory that this function created is removed if it
    is empty at the end. With `wait`, the function waits while another process holds the
    lock.

    Raises:
        ConfigError: Another process holds the lock and `wait` is False, `folder` cannot be
            used (see `require_writable_folder`), or the directory or the lock file cannot
            be created, for example because the disk is full, or files in the directory can
            only be appended to.
    """
    if os.path.lexists(folder):  # given as --workdir, or as a run that another user wrote
        require_writable_folder(folder, "The run directory", CORRECT_OR_COPY)
    else:
        require_writable_folder(folder, "--workdir")
    # Here, because importing the dataset builder takes a second. --help does not need it.
    from tfds_ham10000.locks import hold_lock

    created = not folder.exists()

    def on_busy(hint: str) -> None:
        if not wait:
            raise ConfigError(
                f"{folder} is in use by another process. Wait until it has finished, or "
                f"use another directory. {hint}".rstrip()
            )
        text = f"waiting for another process that uses {folder}. {hint}"
        print(text.rstrip(), file=sys.stderr)

    path = folder / ".lock"
    try:
        with contextlib.ExitStack() as stack:
            with explain_write_errors(path):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold_lock(path, on_busy))
            with explain_write_errors(folder):
                _require_random_writes(folder)
            yield
    finally:
        if created and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _require_random_writes(folder: Path) -> None:
    """Raises an OSError if files in a directory can only be appended to.

    HDF5 and ZIP files are changed after they were written, which some network drives and
    mounts of cloud storage do not support.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(2))
        file.flush()
        file.seek(0)
        file.write(bytes(1))


def remove(path: Path) -> None:
    """Removes a file, or a directory with its content, if it exists.

    Of a directory that is a link or a mount point, such as one on another disk, only the
    content is removed.

    Raises:
        OSError: A file or directory cannot be removed.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif path.is_symlink() or os.path.ismount(path):
        for child in path.iterdir():
            remove(child)
    else:
        shutil.rmtree(path)


def _link_target(path: Path) -> Path:
    """Returns the path at which a file is written: the target if `path` is a link."""
    return real_path(path) if os.path.islink(path) else path


def _set_permissions(path: Path, existing: os.stat_result) -> None:
    """Gives `path` the mode of an existing file, and its owner if this is permitted.

    On Windows, files have the permissions of their directory. On a file system that refuses
    to change modes, only the owner can then read the file.
    """
    if sys.platform == "win32":
        return
    for owner in ((-1, existing.st_gid), (existing.st_uid, -1)):
        with contextlib.suppress(OSError):
            os.chown(path, *owner)
    mode = stat.S_IMODE(existing.st_mode)
    if mode != stat.S_IMODE(path.stat().st_mode):  # some file systems have no modes
        try:
            path.chmod(mode)
        except OSError as error:
            if error.errno not in NO_CHMOD:
                raise


def _sync(path: Path) -> None:
    # Windows syncs only files that are open for writing.
    with path.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise


def require_writable_folder(
    path: Path, flag: str, fix: str = "Use another directory."
) -> None:
    """Raises a `ConfigError` if files cannot be written to the directory `path`.

    The directory need not exist. For the error message, `flag` names the path, such as
    "--workdir", and `fix` states what to do if the directory is not writable. See also
    `skincnn.paths.require_usable_path`.
    """
    require_usable_path(path, flag)
    existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not os.path.isdir(existing):
        broken = os.path.islink(existing) and not os.path.exists(existing)
        kind = "a symbolic link to a missing directory" if broken else "a file"
        raise ConfigError(
            f"{flag} must be a directory. Received: {path}, but {existing} is {kind}."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{flag} must be a writable directory. Received: {path}, but {existing} is not "
            f"writable. {fix}"
        )


def require_writable_file(path: Path, flag: str) -> None:
    """Raises a `ConfigError` if `path` is a directory, or its directory is not writable.

    Devices, other special files and mount points are rejected, too. `path` and its
    directory need not exist. If `path` is a symbolic link, its target is checked. `flag` is
    the command-line flag of the path, for the error message. See also
    `require_writable_folder`.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(
            f"{flag} must be a file. Received: {path}, which is not a regular file."
        )
    target = _link_target(path)
    if os.path.ismount(target):  # such as a file mounted in a container
        raise ConfigError(
            f"{flag} must be a file that can be replaced. Received: {path}, which is a "
            "mount point. Mount its directory instead."
        )
    require_writable_folder(target.parent, f"The parent directory of {flag}")


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` atomically, encoded in UTF-8.

    Raises:
        OSError: See `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` as indented JSON, atomically.

    Raises:
        ValueError: `value` contains NaN or infinity.
        OSError: See `replacing`.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def json_sha256(value: Any) -> str:
    """Returns the SHA-256 of a JSON value in hexadecimal; the order of keys is ignored."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        DataError: The file is a Git LFS pointer.
        OSError: The file cannot be read.
    """
    require_content(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_content(path: Path) -> None:
    """Checks that a file, if it exists, is not a Git LFS pointer.

    Raises:
        DataError: The file is a pointer.
        OSError: The file cannot be read.
    """
    if not os.path.isfile(path):
        return
    with path.open("rb") as file:  # because importing the dataset builder takes a second
        if file.read(7) != b"version":
            return
    from tfds_ham10000.image_files import LFS_ADVICE, is_lfs_pointer

    if is_lfs_pointer(path):
        raise DataError(f"{path} is {LFS_ADVICE}")


@contextlib.contextmanager
def open_npz(path: Path, fix: str) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Yields the arrays of an .npz file; see `tfds_ham10000.image_files.open_npz`.

    Raises:
        DataError: The file cannot be read, is not a valid .npz file, or lacks an array.
    """
    from tfds_ham10000.image_files import open_npz
    from tfds_ham10000.records import SourceError

    try:
        with open_npz(path, fix) as arrays:
            yield arrays
    except SourceError as error:
        raise DataError(str(error)) from error
