# The HTTP service of scripts/serve.py on the CPU. This image was never built.
#   docker build -t skincnn .
#   docker run --rm -p 127.0.0.1:8000:8000 -e SKINCNN_TOKEN -v "$PWD/runs/mobilenet_160:/model:ro" skincnn
FROM python:3.12-slim AS build
RUN python -m venv /opt/skincnn
# The dependencies are installed first, so that this layer is cached when the code changes.
WORKDIR /source
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY skincnn/__init__.py skincnn/
RUN /opt/skincnn/bin/pip install --no-cache-dir '.[serve]'
COPY . .
RUN /opt/skincnn/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.12-slim
COPY --from=build /opt/skincnn /opt/skincnn
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin skincnn
USER 10001
# Libraries write caches to the home directory and temporary files to /tmp.
ENV HOME=/tmp PYTHONUNBUFFERED=1 NO_PROXY=127.0.0.1
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["/opt/skincnn/bin/python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
# Without SKINCNN_TOKEN, the server reports that a token is required and ends.
ENTRYPOINT ["/opt/skincnn/bin/skincnn", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
