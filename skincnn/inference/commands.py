"""The commands that write the results of an evaluation, for messages."""

from __future__ import annotations

from pathlib import Path

from skincnn.commands import command_line
from skincnn.inference.logit_adjustment import variant_flags

EVALUATED_BY_DEFAULT = ("val", "test", "out_of_fold")
"""Splits on which `skincnn train` evaluates a run or a cross-validation."""


def evaluate_command(workdir: Path, name: str) -> str:
    """Returns the command that writes results/<name>.json of a single run.

    For example, it has the flags --split fold_3 --tta d4 --logit-adjustment for the name
    "fold_3.d4_adjusted".
    """
    split, _, variant = name.partition(".")
    if split == "external":
        return command_line("evaluate", workdir, "--external", variant)
    if split == "ood":  # of the test split
        split, variant = "test", name
    flags = [] if split in EVALUATED_BY_DEFAULT else ["--split", split]
    if variant == "corruptions":
        flags.append("--corruptions")
    elif variant.startswith("ood"):
        flags += ["--ood-dir", "DIR"] if "." in variant else []
    else:
        flags += variant_flags(variant).split()
    return command_line("evaluate", workdir, *flags)
