"""The page of a reproduction; `train` writes it, from its studies. The module is imported by name, as in `predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ..base.version import __version__
from .paper import FULL, Paper
from .record import DONE, ReproductionRecord
from .sources import STORE, Source
from .steps import Choices, store_of

PAGE_MODULE = "erc_toolkit.train.papers.page"
PAGE = "paper.html"


@dataclass(frozen=True, slots=True)
class PaperResults:
    """What the page shows.

    Attributes:
        title: of the page.
        folders: corpus to the folder of its studies.
        names: corpus to its name for display, of all corpora of the paper.
        figures: figure of the paper to its study.
        missing: corpus to the reason why it has no results.
        facts, warnings: shown at the top.
    """

    title: str
    folders: Mapping[str, Path]
    names: Mapping[str, str]
    figures: Mapping[str, str]
    missing: Mapping[str, str]
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[str]


class PaperPage(Protocol):
    """The function of `PAGE_MODULE`."""

    def write_paper(self, page: Path, results: PaperResults, /) -> None:
        """Writes a page of the paper's tables and figures to the HTML file `page`."""
        ...


def missing_corpora(paper: Paper, sources: Sequence[Source], record: ReproductionRecord) -> dict[str, str]:
    """Corpus to the reason why there are no features of it; the first step that was not done counts."""
    given = {source.corpus for source in sources}
    missing = {corpus: f"not given (--{corpus})" for corpus in paper.corpora if corpus not in given}
    for step in record["steps"]:
        if step["status"] != DONE and not step["study"] and step["corpus"] in given:
            missing.setdefault(str(step["corpus"]), f"{step['step']} {step['status']}: {step['reason']}")
    return missing


def write_page(
    paper: Paper,
    choices: Choices,
    sources: Sequence[Source],
    record: ReproductionRecord,
    failed: Mapping[str, str],
) -> Path:
    """Writes OUT/paper.html from what has been done so far; returns its path."""
    module = cast(PaperPage, import_module(PAGE_MODULE))
    given = {source.corpus: source for source in sources}
    facts = [("toolkit", __version__), ("budget", choices.budget.name), ("seeds", str(choices.seeds))]
    for corpus, source in given.items():
        kind = "store" if source.kind == STORE else source.kind
        facts.append((paper.corpora[corpus], f"{source.path.name} ({kind}); {store_of(source, choices.out).name}"))
    spent = sum(step["seconds"] for step in record["steps"])
    facts.append(("time of all steps", f"{spent / 60:.1f} min"))
    warnings = [f"{title}: {reason}" for title, reason in failed.items()]
    if choices.budget.name != FULL:
        warnings.insert(
            0,
            "Budget quick: small models and few epochs, to see that everything runs. These numbers say nothing about "
            "the paper.",
        )
    page = choices.out / PAGE
    folders = {corpus: choices.out / corpus for corpus in given}
    title = f"{paper.title}: the paper's tables and figures, made again"
    results = PaperResults(
        title, folders, paper.corpora, paper.figures, missing_corpora(paper, sources, record), facts, warnings
    )
    module.write_paper(page, results)
    return page
