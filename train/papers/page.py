"""The page of a paper made again: its tables with our values beside the printed ones, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from ...toolkit.reproduce.page import PaperResults
from ..config import OPTIMISTIC
from ..reports.page import OPTIMISTIC_WARNING, Page, PageFigure, Section, store_name, write_page
from ..reports.published import published_tables
from ..studies.measures.base import summarised_variants
from ..studies.measures.registry import find_measure
from .costs import overhead_table, runtime_table
from .ours import OurStudy, find_study
from .tables import INTERVALS, NOTHING, Corpus, main_table, rows_table

_MAIN = {"iemocap": "Table 2", "meld": "Table 3"}
_TITLES = {
    "Table 4": ("modalities", "Modalities"),
    "Table 5": ("relational subgraphs and DiffRGCN", "Variants"),
    "Table 6": ("adaptive modality dropout", "Variants"),
    "Table 7": ("base probability and execution probability of modality dropout", "q and p"),
}
_FIGURES = {
    "Fig. 3": "window of the speaker graphs",
    "Fig. 4": "heads of graph attention",
    "Fig. 5": "epochs before modality dropout begins",
    "Fig. 6": "long dialogues, by position",
    "Fig. 7": "noise on the features at test time",
    "Fig. 8": "extreme imbalance of the modalities",
}
_NO_NUMBERS = "The paper draws this without numbers; compare the shape."


def write_paper(page: Path, results: PaperResults) -> None:
    """Writes the page, and its tables (CSV, LaTeX) and figures (PNG, SVG) next to it.

    Args:
        page: the HTML file.
        results: what it shows.

    Raises:
        UserError: a study's record is damaged.
    """
    corpora = [_corpus(key, name, results) for key, name in results.names.items()]
    tables = published_tables()
    sections = [Section(_MAIN[corpus.key], [main_table(corpus, _MAIN[corpus.key])]) for corpus in corpora]
    for number, (what, first) in _TITLES.items():
        sections.append(Section(number, [rows_table(tables[number], corpora, what, first)]))
    sections.append(Section("Table 8", [overhead_table(tables["Table 8"], corpora)]))
    sections.append(Section("Table 9", [runtime_table(tables["Table 9"], corpora)]))
    sections += [_figure(number, study, corpora) for number, study in results.figures.items()]
    protocols = {study.record["protocol"] for corpus in corpora for study in corpus.studies.values()}
    shown = [("epoch of ours selected by", ", ".join(sorted(protocols)) or NOTHING), *_stores(corpora)]
    told = [*results.warnings, *([OPTIMISTIC_WARNING] if OPTIMISTIC in protocols else []), *_unequal(corpora)]
    write_page(Page(results.title, [*results.facts, *shown, ("intervals", INTERVALS)], [], told, sections), page)


def _corpus(key: str, name: str, results: PaperResults) -> Corpus:
    folder, missing = results.folders.get(key), results.missing.get(key, "")
    if folder is None:
        return Corpus(key, name, {}, missing)
    wanted = ["models", *(table.study for table in published_tables().values()), *results.figures.values()]
    found = {study: find_study(folder, study) for study in dict.fromkeys(wanted)}
    return Corpus(key, name, {study: one for study, one in found.items() if one is not None}, missing)


def _figure(number: str, study: str, corpora: Sequence[Corpus]) -> Section:
    section = Section(f"{number}: {_FIGURES.get(number, study)}", beside=True)
    absent, drawn = [], []
    for corpus in corpora:
        ours = corpus.studies.get(study)
        figures = [] if ours is None else _drawn(ours)
        if not figures:
            absent.append(f"{corpus.name}: {corpus.missing or 'no result'}")
        drawn.append(
            [
                PageFigure(f"{corpus.key}_{study}_{name}", f"{corpus.name}. {caption}", figure)
                for name, caption, figure in figures
            ]
        )
    # As in the paper, the same figure of both corpora side by side.
    section.figures = [one for pair in zip_longest(*drawn) for one in pair if one is not None]
    section.warning = "; ".join(absent)
    if section.figures:
        name, caption, figure = section.figures[0]
        section.figures[0] = PageFigure(name, f"{caption} {_NO_NUMBERS}", figure)
    return section


def _drawn(study: OurStudy) -> list[PageFigure]:
    """The figures of a study's measure."""
    measure = find_measure(study.record["measure"])
    section = measure.section(study.record, summarised_variants(measure, study.record))
    return [] if section is None else section.figures


def _stores(corpora: Sequence[Corpus]) -> list[tuple[str, str]]:
    """The store of each corpus, by name and content."""
    found = []
    for corpus in corpora:
        stores = [study.record["store"] for study in corpus.studies.values()]
        named = dict.fromkeys(store_name(store["path"], store["content_sha256"]) for store in stores)
        if named:
            found.append((f"features of {corpus.name}", ", ".join(named)))
    return found


def _unequal(corpora: Sequence[Corpus]) -> list[str]:
    """A warning for each corpus whose studies did not use the same features."""
    found = []
    for corpus in corpora:
        contents: dict[str, set[str]] = {}
        for study in corpus.studies.values():
            for name, content in study.record.get("contents", {}).items():
                contents.setdefault(name, set()).add(content)
        if changed := [name for name, hashes in contents.items() if len(hashes) > 1]:
            found.append(
                f"{corpus.name}: {', '.join(changed)} changed between the studies, which are therefore not comparable; "
                "run them again."
            )
    return found
