"""A page: one self-contained HTML file, with its figures and tables also saved as separate files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePath
from typing import NamedTuple, NotRequired, TypedDict

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from ...toolkit.base.files import write_atomically
from ...toolkit.base.outputs import check_folder, check_output, is_stamped, staged_folder, stamped
from ...toolkit.predict.turns import Media
from ..scores.tables import ReportTable
from .figures import inline, save

_COMMAND = "report"
OPTIMISTIC_WARNING = (
    "Optimistic: the epoch was selected on the test split itself, as in published scripts. "
    "Compare only with results of the same protocol."
)


def store_name(path: str, content_sha256: str) -> str:
    """How a page names a store: by its file's name and hash, as its folder says something about whose it is."""
    return f"{PurePath(path).name} ({content_sha256[:12]})"


class PageFigure(NamedTuple):
    """A figure of a section: the stem of its files, its caption, and the figure."""

    name: str
    caption: str
    figure: Figure


class PageUtterance(TypedDict):
    """An utterance of a dialogue on the page.

    `true`, `predicted`: class index, -1 if there is none; `confidence`: probability of the predicted class; `own`: the
    class predicted from each modality alone, -1 if it is absent; in a recording, `at`: start time in words, `start`,
    `end`: in seconds.
    """

    speaker: str
    text: str
    true: int
    predicted: int
    confidence: float
    own: list[int]
    at: NotRequired[str]
    start: NotRequired[float]
    end: NotRequired[float]


class PageDialogue(TypedDict):
    """A dialogue on the page.

    `right`, `labelled`: number of correct predictions and of labelled utterances; `edges`: maps modality to graph to a
    list of [i, j, weight of each branch, ..., weight used], weights in thousandths.
    """

    name: str
    right: int
    labelled: int
    utterances: list[PageUtterance]
    edges: dict[str, dict[str, list[list[int]]]]


class TimelineTurn(NamedTuple):
    """A turn of a recording: its number, start and length in seconds, colour, and what is shown when pointing at it."""

    number: int
    start: float
    length: float
    colour: str
    title: str


class TimelineLane(NamedTuple):
    """The turns of one person, or of several: `name`."""

    name: str
    turns: list[TimelineTurn]


class Timeline(NamedTuple):
    """A recording and its turns.

    Attributes:
        media: the recording.
        seconds, end: where its last turn ends, also in words.
        lanes: of the people.
        colours: of the emotions.
    """

    media: Media
    seconds: float
    end: str
    lanes: list[TimelineLane]
    colours: dict[str, str]


@dataclass(slots=True)
class Section:
    """A heading followed by tables and figures.

    Attributes:
        title: the heading.
        tables: tables, shown first.
        figures: figures, shown after the tables.
        warning: a warning shown below the heading, or empty.
        stacked: whether wide tables stand below each other, their cells on one line.
        text: a sentence or two below the heading.
        beside: whether the figures stand side by side where the page is wide enough.
    """

    title: str
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)
    warning: str = ""
    beside: bool = False
    text: str = ""
    stacked: bool = False


@dataclass(slots=True)
class Page:
    """The content of a page.

    Attributes:
        title: the page title.
        facts: name and value of each fact in the header.
        headline: name, number and small print of each headline figure.
        warnings: warnings shown at the top.
        sections: the sections, in order.
        dialogues: dialogues to browse; empty for a study.
        labels: names of the emotions.
        modalities: modalities of the dialogues' predictions and edges.
        timeline: of a recording, which is the only dialogue.
        sortable: whether a click on a column's head sorts its table.
    """

    title: str
    facts: list[tuple[str, str]]
    headline: list[tuple[str, str, str]]
    warnings: list[str]
    sections: list[Section]
    dialogues: list[PageDialogue] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    modalities: list[str] = field(default_factory=list)
    timeline: Timeline | None = None
    sortable: bool = False


def check_page(out: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Checks that the page and its folder "STEM_files" may be written; arguments and errors as for `check_output`."""
    if not out.parent.is_dir():
        return  # `write_page` creates it
    check_output(out, inputs, earlier=_is_page, overwrite=overwrite)
    files = _files(out)
    # Without a page of ours next to it, the folder is somebody else's.
    known = [path.name for path in files.iterdir()] if files.is_dir() else []
    check_folder(files, known, inputs, earlier=lambda _: _is_page(out), overwrite=overwrite)


def write_page(page: Page, out: Path) -> None:
    """Writes the page, and its figures and tables to the folder "STEM_files" next to it.

    Args:
        page: the page to write.
        out: the HTML file; its folder is created if necessary.

    Raises:
        OSError: they cannot be written.
    """
    with staged_folder(_files(out)) as files:
        for section in page.sections:
            for table in section.tables:
                table.save(files)
            for name, _, figure in section.figures:
                save(figure, files / name)
        # First, so that the folder is known by it whatever happens.
        write_atomically(out, stamped(render(page, _files(out).name), _COMMAND).encode("utf-8"))


def _files(out: Path) -> Path:
    return out.with_name(f"{out.stem}_files")


def _is_page(path: Path) -> bool:
    return is_stamped(path, _COMMAND)


def render(page: Page, files: str) -> str:
    """Renders the page as HTML; all external text is escaped. `files` names the folder of figures and tables."""
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
