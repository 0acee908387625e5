"""The HTTP service, whose modules require the packages of the extra `serve`."""

import importlib.util

from skincnn.errors import ConfigError

PACKAGES = ("fastapi", "httptools", "prometheus_client", "python_multipart", "uvicorn")


def check_requirements() -> None:
    """Raises a `ConfigError` if the packages of the extra `serve` are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The server requires {', '.join(missing)}. Install: pip install -e '.[serve]'"
        )
