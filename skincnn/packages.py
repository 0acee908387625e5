"""The other packages of this project, which a module of the user may hide."""

from __future__ import annotations

import importlib.util
import os

from skincnn.errors import ConfigError


def require_own(package: str) -> None:
    """Raises a `ConfigError` if another module hides `package`, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    folders = (os.path.dirname(spec.origin), os.path.dirname(__file__))
    received, own = map(os.path.realpath, folders)
    if received != os.path.join(os.path.dirname(own), package):
        name = "__init__.py"
        path = folders[0] if os.path.basename(spec.origin) == name else spec.origin
        raise ConfigError(
            f"{path} hides the package {package} of skincnn, because Python finds it "
            "first. Rename it, start Python in another directory, or remove its directory "
            "from PYTHONPATH."
        )
