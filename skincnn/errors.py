"""Errors that a user can cause, and the exit codes of the commands.

Exit codes: 0 success, 1 unexpected error, 2 `ConfigError` or invalid flags, 3 invalid data,
4 training diverged, 130 Ctrl-C, 141 closed output pipe, 143 SIGTERM or SIGHUP. If an
exception has an integer `exit_code`, `skincnn.cli.common` prints its message without a
traceback and exits with this code.
"""

from __future__ import annotations


class ConfigError(ValueError):
    """Raised if a setting or path cannot be used, or memory or disk space runs out."""

    exit_code = 2


class MemoryFullError(ConfigError):
    """Raised if training requires more memory than is available on the device."""


class DataError(ValueError):
    """Raised if data are missing, damaged or unsuitable for training or evaluation."""

    exit_code = 3


class DivergedError(RuntimeError):
    """Raised if training diverges, for example if the loss or a weight is not finite."""

    exit_code = 4


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM and SIGHUP. Handlers of `KeyboardInterrupt` also handle it."""
