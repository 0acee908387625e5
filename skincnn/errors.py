"""Errors that a user can cause, and the exit codes of the commands.

Exit codes: 0 success, 1 unexpected error, 2 `ConfigError`, invalid flags or a system error
with a known cause (`skincnn.write_errors`), 3 invalid data, 4 `DivergedError`, 130 Ctrl-C,
141 closed output pipe, 143 SIGTERM, SIGHUP or SIGXCPU. If an exception has an integer
`exit_code`, `skincnn.cli.process` prints its message without a traceback and exits with
this code.
"""

from __future__ import annotations


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
