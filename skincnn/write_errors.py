"""The causes of errors of the operating system, such as a full disk, and advice."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from skincnn.errors import ConfigError

ADVICE = {
    "The disk is full. Free disk space, or use another directory.": (errno.ENOSPC,),
    "Your disk quota is used up. Delete files, or use another directory.": (errno.EDQUOT,),
    "The file is larger than the file system or `ulimit -f` permits. Use another "
    "directory, or a higher limit.": (errno.EFBIG,),
    "The file system is read-only. Use another directory.": (errno.EROFS,),
    "Permission is denied. Correct the permissions, or use another directory.": (
        *(errno.EACCES, errno.EPERM),
    ),
    "The path, or a name in it, is too long. Use a shorter one.": (errno.ENAMETOOLONG,),
    "The file or directory is in use, or is a mount point. Stop the programs that use it, "
    "or mount its directory instead, and repeat the command.": (
        *(errno.EBUSY, errno.ENOTEMPTY),
    ),
    "A file, a directory, or a link to a missing directory is in the way. Rename or move "
    "it, or use another path.": (errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
    "This process may not open more files. Use a higher limit `ulimit -n`.": (
        *(errno.EMFILE, errno.ENFILE),
    ),
    "The system permits no more processes, threads or memory. Use higher limits (see "
    "`ulimit -a`, or those of the container), or stop other programs.": (
        *(errno.EAGAIN, errno.ENOMEM),
    ),
    "The disk or network drive does not respond. Check it, and run the command again.": (
        *(errno.EIO, errno.ESTALE, errno.ENOTCONN),
    ),
    "The file system does not support this operation. Use a directory on a local disk.": (
        *(errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV),
        errno.ENODEV,
    ),
}
"""Causes of errors and what the user can do, with the numbers of the errors."""
NO_TEMPORARY = "No usable temporary directory"
"""Beginning of the error message of `tempfile.gettempdir`, whose error number misleads."""
NO_THREAD = "can't start new thread"
"""The message of a `RuntimeError` that Python raises if a thread cannot be started."""
CAUSES = {number: text for text, numbers in ADVICE.items() for number in numbers}


def describe_cause(error: BaseException, path: Path | str = "") -> str:
    """Returns the cause of a system error and what to do; "" if not known.

    If the error or `path`, the file that was written, names a temporary file or directory,
    the advice is to use another temporary directory.
    """
    cause, _, advice = _find_cause(error).partition(". ")
    # Imported elsewhere, so that a user's own random.py is an error in a command.
    folder = getattr(sys.modules.get("tempfile"), "tempdir", None)
    temporary = rf"{re.escape(folder or '')}[/\\]tmp[a-z0-9_]{{8}}\b"
    if folder and "another directory" in advice and re.search(temporary, f"{error} {path}"):
        cause = f"{cause}, in the temporary directory {folder}"
        advice = "Set the environment variable TMPDIR to another directory."
    return ". ".join(filter(None, (cause, advice)))


def _find_cause(error: BaseException) -> str:
    """Returns the text in `ADVICE`; "" if not known.

    TensorFlow and HDF5 report the text of the operating system without its number.
    """
    if isinstance(error, RuntimeError) and NO_THREAD in str(error):
        return CAUSES[errno.EAGAIN]
    if not isinstance(error, OSError) and not _is_from_tensorflow(error):
        return ""
    if NO_TEMPORARY in str(error):
        return "Set TMPDIR to a writable directory on a disk that is not full."
    number = getattr(error, "errno", None)
    if number is not None:
        return CAUSES.get(number, "")
    texts = (text for code, text in CAUSES.items() if os.strerror(code) in str(error))
    return next(texts, "")


@contextlib.contextmanager
def explain_write_errors(path: Path | str, advice: str = "") -> Iterator[None]:
    """Raises a `ConfigError` that names `path` and the cause if writing fails.

    `advice` is a sentence that follows the cause, such as how to resume. An exception that
    is not an OSError and has no known cause is raised unchanged, and so is a
    BrokenPipeError.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # handled by `skincnn.cli.process.main`
    except Exception as error:
        cause = describe_cause(error, path)
        if not isinstance(error, OSError) and not cause:
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        text = lines[-1].rstrip(".")
        parts = (f"{path} could not be written: {text}.", cause, advice)
        raise ConfigError(" ".join(filter(None, parts))) from error


def _is_from_tensorflow(error: BaseException) -> bool:
    return type(error).__module__.startswith("tensorflow.")
