"""What Windows forbids and Linux allows, for tests on Linux.

`mypy --platform win32` in `make check` finds functions that Windows does not have, such as
`fcntl` or `select.poll`. The rules here concern files, and are checked at run time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ILLEGAL = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$', re.ASCII)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LOCK = ".lock"
"""Suffix of lock files, which `filelock` locks in another way on Windows."""

_folders: list[Path] = []
"""The directories in which the rules hold."""


@contextlib.contextmanager
def windows_rules(folder: Path) -> Iterator[None]:
    """Raises the errors of Windows for the files in a directory.

    - A file that this process has open or mapped, or a directory with such a file, cannot
      be deleted, renamed or replaced.
    - A file or directory cannot be renamed to one that exists; only files are replaced.
    - A file that is open for reading only cannot be synced.
    - Names must not contain <>:"|?* or a backslash, end with a dot or space, or be the name
      of a device.

    Files that TensorFlow has open count, but its own calls are not checked.
    """
    with pytest.MonkeyPatch.context() as patch:
        fsync, rename = os.fsync, os.rename

        def fsync_writable(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, "Windows cannot sync a read-only file")
            fsync(file)

        def rename_to_new(source: Any, target: Any, **options: Any) -> None:
            if _is_ruled(target) and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "Windows: the target exists", target)
            rename(source, target, **options)

        patch.setattr(os, "fsync", fsync_writable)
        patch.setattr(os, "rename", rename_to_new)
        _folders.append(folder.resolve())
        try:
            yield
        finally:
            _folders.pop()


def _check(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook. It cannot be removed, and does nothing without `_folders`."""
    if not _folders:
        return
    if event in ("open", "os.mkdir") and isinstance(args[0], str | os.PathLike):
        writes = event == "os.mkdir" or bool(args[2] & (os.O_CREAT | os.O_WRONLY))
        if writes and _is_ruled(args[0]):
            _require_valid_name(os.fspath(args[0]))
    elif event in ("os.remove", "os.rmdir"):
        _require_closed(_resolve(args[0], args[1]))
    elif event == "os.rename":
        source, target, source_folder, target_folder = args
        _require_closed(_resolve(source, source_folder))
        path = _resolve(target, target_folder)
        _require_closed(path)
        if _is_ruled(path):
            _require_valid_name(path)
            if os.path.isdir(path):
                raise PermissionError(errno.EACCES, "Windows: the target exists", path)


sys.addaudithook(_check)


def _is_ruled(path: Any) -> bool:
    text = os.path.abspath(os.fsdecode(path))
    return any(Path(text).is_relative_to(folder) for folder in _folders)


def _resolve(path: Any, folder: int) -> str:
    """Returns an absolute path; `folder` is a file descriptor, or -1."""
    text = os.fsdecode(path)
    parent = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    return os.path.join(parent, text)


def _require_valid_name(path: str) -> None:
    name = os.path.basename(path)
    if ILLEGAL.search(name) or RESERVED.fullmatch(name):
        raise OSError(errno.EINVAL, "Windows: the name of the file is not valid", path)


def _require_closed(path: str) -> None:
    if not _is_ruled(path) or path.endswith(LOCK):
        return
    for used in _used_files():
        if used == path or used.startswith(f"{path}/"):
            raise PermissionError(errno.EACCES, f"Windows: {used} is in use", path)


def _used_files() -> set[str]:
    """Returns the files that this process has open or mapped."""
    used = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            used.add(os.readlink(f"/proc/self/fd/{name}"))
    with open("/proc/self/maps") as maps:
        used |= {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}
    return {path for path in used if not path.endswith(LOCK)}
