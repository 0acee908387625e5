"""Checklists of reporting standards, completed from the results of a run.

Each file in standards/ describes one standard. The answers are Jinja templates, which use
the macros of answers.j2.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from skincnn.classes import describe
from skincnn.errors import ConfigError
from skincnn.evaluation.mistakes import mistakes_path
from skincnn.files import write_text
from skincnn.lookup import look_up
from skincnn.records import Part
from skincnn.reporting.html import report_environment
from skincnn.reporting.load import AUTHORS_FILE, RunResults, advise_report
from skincnn.reporting.text.training_text import model_label
from skincnn.write_errors import explain_write_errors

FOLDER = "checklists"
FROM_RUN = "answered from the run"
IN_PART = "answered in part"
OPEN = "to be filled in by the authors"
BY_AUTHORS = "completed by the authors"
CONTEXT = ("info", "config", "data", "members", "published", "result", "images")
"""Variables of answers.j2 that the answers of the standards also use."""
STATUSES = (FROM_RUN, BY_AUTHORS, IN_PART, OPEN)


class StandardItem(Part):
    """An item of a reporting standard.

    Attributes:
        section: Heading of the section that starts with this item, or "".
        topic: Short description of what the item asks for, in our own words.
        answer: Template of the answer. It renders to "" if the results of the run do not
            contain the answer.
        authors: Template of what only the authors can add; "" if nothing is missing.
        field: Name of the field of `Authors` that answers the item, or "".
    """

    section: str = ""
    number: str
    topic: str
    answer: str = ""
    authors: str = ""
    field: Literal["", "ethics", "funding", "conflicts", "protocol", "registration"] = ""


class Standard(Part):
    """A reporting standard and its items.

    Attributes:
        subject: The studies to which the standard applies.
        note: A remark on the version of the standard in this package, or "".
    """

    title: str
    subject: str
    citation: str
    note: str = ""
    items: tuple[StandardItem, ...]


@dataclass(frozen=True)
class CompletedItem:
    """An item with its answer and one of `STATUSES`.

    `missing` is what the authors have to add; "" if nothing is missing.
    """

    section: str
    number: str
    topic: str
    answer: str
    missing: str
    status: str


@dataclass(frozen=True)
class Checklist:
    """A completed checklist."""

    name: str
    standard: Standard
    items: tuple[CompletedItem, ...]

    @property
    def has_subitems(self) -> bool:
        """Whether some items are divided, such as 3a and 3b."""
        return not all(item.number.isdigit() for item in self.items)

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by status, for each of `STATUSES`."""
        counts = Counter(item.status for item in self.items)
        return {status: counts[status] for status in STATUSES}


def standard_names() -> tuple[str, ...]:
    """Returns the names of the standards, such as "tripod-ai"."""
    names = (path.name for path in _standards().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names))


def read_standard(name: str) -> Standard:
    """Returns a reporting standard.

    Raises:
        ConfigError: No standard has this name.
    """
    look_up(dict.fromkeys(standard_names()), name, "The checklist")
    text = (_standards() / f"{name}.toml").read_text(encoding="utf-8")
    return Standard.model_validate(tomllib.loads(text))


def complete_checklist(results: RunResults, name: str) -> Checklist:
    """Returns the checklist of a standard, answered from the results of a run.

    Raises:
        ConfigError: No standard has this name, or authors.toml answers an item that the
            standard does not have.
    """
    standard = read_standard(name)
    written = results.authors.items.get(name, {})
    unknown = written.keys() - {item.number for item in standard.items}
    if unknown:
        raise ConfigError(
            f"{results.workdir / AUTHORS_FILE}: {standard.title} has no item "
            f"{', '.join(sorted(unknown))}. Expected one of: "
            f"{', '.join(item.number for item in standard.items)}."
        )
    templates = report_environment(autoescape=False)
    mistakes = mistakes_path(results.workdir, results.headline.split)
    official = [r for r in results.splits.values() if r.split.endswith("_official")]
    variables = {
        "results": results,
        "external": [*official, *(result.scores for result in results.external)],
        "official": official,
        "has_mistakes": mistakes.is_file(),
    }
    answers = templates.get_template("answers.j2").make_module(variables)
    known = describe(results.info.class_names, results.info.declared)
    context = variables | {name: getattr(answers, name) for name in CONTEXT}
    context |= {
        "malignant": [name for name, described in known.items() if described.malignant],
        "answers": answers,
    }

    def render(template: str) -> str:
        return " ".join(templates.from_string(template).render(context).split())

    items = []
    for item in standard.items:
        text = getattr(results.authors, item.field) if item.field else ""
        text = " ".join((text or written.get(item.number, "")).split())
        answer, missing = render(item.answer), render(item.authors)
        if item.field:
            missing = f"{item.field} (in {AUTHORS_FILE})"
        items.append(_complete(item, answer, missing, text))
    return Checklist(name, standard, tuple(items))


def render_checklists(results: RunResults, names: Sequence[str]) -> list[Path]:
    """Writes the Markdown and HTML files of checklists; returns their paths.

    Checklists that exist in the run directory are rendered again.

    Raises:
        ConfigError: A file cannot be written, or authors.toml has items of an unknown
            standard; see also `complete_checklist`.
    """
    folder = results.workdir / FOLDER
    existing = [name for name in standard_names() if (folder / f"{name}.md").is_file()]
    for name in results.authors.items:
        look_up(dict.fromkeys(standard_names()), name, f"{AUTHORS_FILE}: items")
    checklists = [
        complete_checklist(results, name) for name in dict.fromkeys((*names, *existing))
    ]
    paths = []
    for checklist in checklists:
        for suffix in ("md", "html"):
            template = f"checklist.{suffix}.j2"
            text = (
                report_environment(autoescape=suffix == "html")
                .get_template(template)
                .render(results=results, checklist=checklist, title=model_label(results))
            )
            path = folder / f"{checklist.name}.{suffix}"
            advice = advise_report(results.workdir, "--checklist", checklist.name)
            with explain_write_errors(path, advice):
                write_text(path, text)
            paths.append(path)
    return paths


def _complete(item: StandardItem, answer: str, missing: str, text: str) -> CompletedItem:
    """Returns an item with the answer of the run and the `text` of the authors."""
    if text:
        answer, missing, status = f"{answer} {text}".strip(), "", BY_AUTHORS
    elif answer and not missing:
        status = FROM_RUN
    else:
        status = IN_PART if answer else OPEN
    return CompletedItem(item.section, item.number, item.topic, answer, missing, status)


def _standards() -> resources.abc.Traversable:
    return resources.files("skincnn.reporting") / "standards"
