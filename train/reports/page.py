"""A page: one HTML file that needs no other, and its figures and tables as files beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from ...toolkit.base.files import write_atomically
from ..scores.tables import ReportTable
from .figures import inline, save

OPTIMISTIC_WARNING = (
    "Optimistic: the epoch was selected on the test split itself, as in published scripts. "
    "Compare with results of that protocol alone."
)


class PageFigure(NamedTuple):
    """A figure of a section: the name of its files, the sentence below it, and the figure."""

    name: str
    caption: str
    figure: Figure


class PageUtterance(TypedDict):
    """An utterance of a dialogue on the page.

    `true`, `predicted`: class, -1 where there is none; `sure`: probability of the predicted class; `own`: the class
    that each modality alone predicts, -1 where it is absent; `at`: when it begins, of a recording.
    """

    speaker: str
    text: str
    true: int
    predicted: int
    sure: float
    own: list[int]
    at: NotRequired[str]


class PageDialogue(TypedDict):
    """A dialogue on the page.

    `right`, `labelled`: how many of how many labelled utterances are predicted right; `edges`: modality to graph to a
    list of [i, j, weight of each branch, ..., weight used], in thousandths.
    """

    name: str
    right: int
    labelled: int
    utterances: list[PageUtterance]
    edges: dict[str, dict[str, list[list[int]]]]


@dataclass(slots=True)
class Section:
    """A heading with tables and figures below it, in this order.

    Attributes:
        title: of the section.
        tables: to show.
        figures: to show.
        warning: a sentence that must not be overlooked, or empty.
    """

    title: str
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)
    warning: str = ""


@dataclass(slots=True)
class Page:
    """The content of a page.

    Attributes:
        title: of the page.
        facts: name and text of each fact in the head.
        headline: name, number and, in small print, what belongs to it.
        warnings: sentences that must not be overlooked.
        sections: in order.
        dialogues: to look through; empty for a study.
        labels: names of the emotions.
        modalities: of the dialogues' opinions and edges.
    """

    title: str
    facts: list[tuple[str, str]]
    headline: list[tuple[str, str, str]]
    warnings: list[str]
    sections: list[Section]
    dialogues: list[PageDialogue] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    modalities: list[str] = field(default_factory=list)


def write_page(page: Page, out: Path) -> None:
    """Writes OUT and, in the folder OUT without its ending and with "_files", every figure and table.

    Args:
        page: what to write.
        out: the HTML file; its folder is created if need be.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    files = out.with_name(f"{out.stem}_files")
    files.mkdir(exist_ok=True)
    for section in page.sections:
        for table in section.tables:
            table.save(files)
        for name, _, figure in section.figures:
            save(figure, files / name)
    write_atomically(out, render(page, files.name).encode("utf-8"))


def render(page: Page, files: str) -> str:
    """The page as HTML; every text from outside is escaped. `files` is the folder of figures and tables."""
    source = resources.files(__name__.rpartition(".")[0]) / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (source / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = {name: Markup(inline(figure)) for section in page.sections for name, _, figure in section.figures}
    return environment.get_template("report.html").render(page=page, drawn=drawn, files=files)
