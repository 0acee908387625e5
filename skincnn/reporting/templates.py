"""Jinja environments, and the encoding of images for HTML."""

from __future__ import annotations

import base64
import functools
import io

import jinja2
from PIL import Image


@functools.cache
def environment(package: str, autoescape: bool) -> jinja2.Environment:
    """Returns the Jinja environment for the templates in the directory of a package.

    Undefined variables raise an error. Set `autoescape` for HTML, but not for Markdown. All
    calls with the same arguments return the same environment, so filters and globals that
    are added to it persist.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def encode_png(image: Image.Image) -> bytes:
    """Returns an image as bytes in PNG format."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Returns a PNG image as a data URI, for self-contained HTML."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
