"""The HTTP service, whose modules require `PACKAGES` of the extra `serve`."""

PACKAGES = ("fastapi", "httptools", "prometheus_client", "python_multipart", "uvicorn")
