"""Errors that a user can cause, and the exit codes of the commands.

Exit codes: 0 success, 1 unexpected error, 2 `ConfigError`, invalid flags, a system error
with a known cause (`skincnn.write_errors`) or a package that cannot be imported, 3 invalid
data, 4 `DivergedError`, 130 Ctrl-C, 141 closed output pipe, 143 SIGTERM, SIGHUP or SIGXCPU.
If an exception has an integer `exit_code`, `skincnn.cli.process` prints its message without
a traceback and exits with this code.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable

PACKAGES = ("skincnn", "tfds_ham10000", "tuning", "scripts")
"""The packages of this project."""
STDLIB = os.path.dirname(os.__file__) + os.sep
"""The directory of the modules of Python."""
ADDRESS_SPACE = (
    "The limit of address space or memory is too low. Use `ulimit -v unlimited`, or "
    "request more memory from the job scheduler, such as h_vmem."
)
"""What to do if shared libraries or TensorFlow do not get enough address space."""
OPTIONAL_MODULES = {
    **{"_bz2": "libbz2-dev", "_lzma": "liblzma-dev", "_sqlite3": "libsqlite3-dev"},
    **{"_ctypes": "libffi-dev", "_ssl": "libssl-dev", "zlib": "zlib1g-dev"},
}
"""Modules without which Python can be built, and the packages of Debian they require."""


class ConfigError(ValueError):
    """Raised if a setting, file or package cannot be used, or memory or disk is full."""

    exit_code = 2


class MemoryFullError(ConfigError):
    """Raised if training requires more memory than is available on the device."""


class DataError(ValueError):
    """Raised if images, tables, models or exports are missing, damaged or unsuitable."""

    exit_code = 3


class DivergedError(RuntimeError):
    """Raised if the loss is too large, or if the loss, a weight or an output is not finite.

    Also raised if the loss never decreases in a learning-rate range test, or if a search
    completes no trial.
    """

    exit_code = 4


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, SIGHUP and SIGXCPU.

    Handlers of `KeyboardInterrupt` also handle it.
    """


def require_packages(names: Iterable[str], what: str, extra: str) -> None:
    """Raises a `ConfigError` that begins with `what` if a package is not installed.

    `extra` is the extra of setup.cfg that installs the packages.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what} requires {', '.join(missing)}. Install: pip install -e '.[{extra}]'"
        )


def describe_import_error(error: BaseException, name: str = "") -> str:
    """Returns which package cannot be imported, why, and what to do.

    `name` is the name of the package, if known. Without it, the result is "" if the error
    was not raised by the import of a package that is not part of this project, and for
    errors of the system, such as too little memory.
    """
    is_from_system = isinstance(error, MemoryError) or getattr(error, "errno", None)
    package, file = ("", "") if is_from_system else _find_imported(error)
    while error.__cause__ is not None:
        error = error.__cause__
    missing = (getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
    if missing.partition(".")[0] not in PACKAGES:
        name = name or package or missing
    if not name:
        return ""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    text = f"{name} cannot be imported: {text}."
    if "map segment" in text:  # of a shared library
        return f"{text} {ADDRESS_SPACE}"
    if library := OPTIONAL_MODULES.get(missing):
        return (
            f"{text} Python was built without the module {missing}. Install its "
            f"library ({library} on Debian and Ubuntu) and build Python again, or use "
            "another Python."
        )
    modules = {x: sys.modules.get(x) for x in sorted({*re.findall(r"\w+", text)})}
    files = {x: getattr(module, "__file__", None) for x, module in modules.items()}
    files[package] = file
    used = ", ".join(
        f"{x} from {y}"
        for x, y in files.items()
        if y and not (x in sys.stdlib_module_names and y.startswith(STDLIB))
    )
    return (
        f"{text} {f'Python uses {used}. ' if used else ''}A package is missing or damaged, "
        "or another version than required is found first. Check PYTHONPATH, "
        "LD_LIBRARY_PATH, ~/.local and the current directory, run `python -m pip check`, "
        "or install skincnn in a new virtual environment."
    )


def _find_imported(error: BaseException) -> tuple[str, str]:
    """Returns the package that was being imported, and its file; ("", "") if none.

    It is the last one in the traceback, after the last line of this project.
    """
    package = file = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__")).partition(".")[0]
        if name in PACKAGES:
            package = file = ""
        elif frame.f_code.co_name == "<module>":
            package, file = name, frame.f_code.co_filename
    return package, file
