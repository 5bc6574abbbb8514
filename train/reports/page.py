"""The report: one HTML file without anything from outside, and its figures and tables as files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ..scores.tables import ReportTable
from ..studies.runs import STUDY
from .figures import inline, save

OPTIMISTIC_WARNING = (
    "Optimistic: the epoch was selected on the test split itself, as in published scripts. "
    "Compare with results of that protocol alone."
)


@dataclass(slots=True)
class Section:
    """A heading with tables and figures below it, in this order.

    Attributes:
        title: of the section.
        tables: to show.
        figures: name of its files, sentence below it, and the figure.
        warning: a sentence that must not be overlooked, or empty.
    """

    title: str
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[tuple[str, str, Figure]] = field(default_factory=list)
    warning: str = ""


@dataclass(slots=True)
class Page:
    """What a report says.

    Attributes:
        title: of the page.
        facts: name and text of each fact in the head.
        headline: name, number and, in small print, what belongs to it.
        warnings: sentences that must not be overlooked.
        sections: in order.
        dialogues: as `erc_toolkit.train.reports.run_page` describes them; empty for a study.
        labels: names of the emotions.
        modalities: of the dialogues' opinions and edges.
    """

    title: str
    facts: list[tuple[str, str]]
    headline: list[tuple[str, str, str]]
    warnings: list[str]
    sections: list[Section]
    dialogues: list[dict[str, object]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    modalities: list[str] = field(default_factory=list)


def write_report(path: Path, out: Path, store: Path | None, device: str, say: Callable[[str], None]) -> None:
    """Writes OUT and, in the folder OUT without its ending and with "_files", every figure and table.

    Args:
        path: folder of a run, of the runs of several seeds, or of a study.
        out: the HTML file.
        store: of a run, if it is not where it was trained.
        device: where a run's dialogues are looked at again.
        say: takes lines for the user.

    Raises:
        UserError: the folder is neither, or something that the report needs is missing or damaged.
    """
    from ..studies.page import study_page
    from .run_page import run_page

    if (path / STUDY).is_file():
        page = study_page(read_study(path))
    else:
        page = run_page(path, store, device, say)
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
    source = resources.files(__package__) / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (source / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = {name: Markup(inline(figure)) for section in page.sections for name, _, figure in section.figures}
    return environment.get_template("report.html").render(page=page, drawn=drawn, files=files)


def read_study(folder: Path) -> dict[str, object]:
    """What `erc_toolkit.train.studies.runs.run_study` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        study = json.loads((folder / STUDY).read_text(encoding="utf-8"))
        if not isinstance(study, dict) or not all(isinstance(row["runs"], list) for row in study["variants"]):
            raise ValueError
        return study
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / STUDY}: damaged; run the study again, which keeps the runs that are done") from None


def published() -> dict[str, object]:
    """Results that others have printed (manifests/published.yaml)."""
    return yaml.safe_load((resources.files("erc_toolkit.manifests") / "published.yaml").read_text(encoding="utf-8"))
