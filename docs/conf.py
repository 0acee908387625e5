"""Configuration of the documentation site; `make docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "skincnn"
html_title = "skincnn"
html_theme = "furo"
html_show_copyright = False
extensions = [
    "command_help",
    "myst_nb",
    "records",
    "results",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
autodoc_typehints = "none"
napoleon_google_docstring = True
exclude_patterns = ["_build", "jupyter_execute"]
myst_heading_anchors = 3
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True  # otherwise, the output of a command is divided at random
html_static_path = ["_static"]
html_css_files = ["site.css"]
