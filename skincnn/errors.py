"""Errors that a user can cause, each with the exit code of the commands.

Exit codes: 0 done, 1 unexpected, 2 usage or configuration, 3 invalid data, 4 training
diverged, 130 and 143 signals. `skincnn.cli.common` reports any exception that has an
integer `exit_code` as one message without a traceback.
"""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration, path or name that cannot be used."""

    exit_code = 2


class MemoryFullError(ConfigError):
    """A training run that does not fit into the memory of the device."""


class DataError(ValueError):
    """Data that is missing, damaged or unfit for training or evaluation."""

    exit_code = 3


class DivergedError(RuntimeError):
    """Training whose loss, weights or outputs are not finite, or grow without bound."""

    exit_code = 4


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM. Code that cleans up after Ctrl-C handles it as well."""
