"""Errors that a user can cause, each with the exit code of the scripts.

Exit codes: 0 done, 1 unexpected, 2 usage or configuration, 3 invalid data, 4 training
diverged, 130 and 143 signals. `skincnn.cli.common` turns the exceptions into them; any
exception with an integer `exit_code` is reported as one message without a traceback.
"""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration, path or name that cannot be used."""

    exit_code = 2


class MemoryFullError(ConfigError):
    """A device without the memory for a training that is none the worse otherwise."""


class DataError(ValueError):
    """Data that is missing, damaged or unfit to train or evaluate on."""

    exit_code = 3


class DivergedError(RuntimeError):
    """Training whose loss, weights or outputs are no longer finite, or grow without end."""

    exit_code = 4


class Terminated(KeyboardInterrupt):
    """SIGTERM; what cleans up after Ctrl-C (a download, say) cleans up after it too."""
