"""Whether this process was forked after TensorFlow had been initialized."""

from __future__ import annotations

import os
import sys

is_after_tensorflow = False
"""Whether the parent of this process, or an earlier one, had initialized TensorFlow."""


def _record() -> None:
    """Sets `is_after_tensorflow` in a new process, before it can use TensorFlow."""
    global is_after_tensorflow
    module = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(module, "_context", None)
    is_after_tensorflow |= getattr(context, "_initialized", False)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_record)
