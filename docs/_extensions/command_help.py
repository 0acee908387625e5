"""The directive `command-help`: what a command prints with --help.

    ```{command-help} train optimizer
    ```

Without an argument, the directive shows the help of every command.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from skincnn.cli import main
from skincnn.cli.help.text import help_text


class CommandHelp(SphinxDirective):
    """See the module."""

    optional_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Returns the text as a literal block, or one section for each command."""
        if self.arguments:
            return [nodes.literal_block(text=render(*self.arguments), language="none")]
        sections: list[nodes.Node] = []
        for name in main.COMMANDS:
            section = nodes.section(ids=[name], names=[name])
            section += nodes.title(text=f"skincnn {name}")
            section += nodes.literal_block(text=render(name), language="none")
            sections.append(section)
        return sections


def render(name: str, topic: str = "") -> str:
    """Returns the help of a command, or of the group of flags or the flag `topic`."""
    return help_text(main.arguments_of(name), topic, program=f"skincnn {name}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
