"""The HTML page of a study: a comparison of its variants, and the section of its measure."""

from __future__ import annotations

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ..config import OPTIMISTIC
from ..reports.page import OPTIMISTIC_WARNING, Page, Section, store_name
from ..scores.tables import ReportTable
from .measures.base import Measure, summarised_variants
from .measures.registry import find_measure
from .measures.results import Results
from .record import DONE, StudyRecord


def study_page(study: StudyRecord) -> Page:
    """The report on a record returned by `erc_toolkit.train.studies.runs.run_study`.

    Raises:
        UserError: the measure is not installed or its `section` returns the wrong type.
    """
    measure = find_measure(study["measure"])
    sections = [_section_of(Results(), study)] if measure.trains else []
    if not isinstance(measure, Results):
        sections.append(_section_of(measure, study))
    sections.append(_left_out_section(study))
    seeds = study["seeds"]
    facts = [
        ("corpus", study["corpus"]),
        ("store", store_name(study["store"]["path"], study["store"]["content_sha256"])),
        ("recipe", study["recipe"]),
        ("settings changed", ", ".join(study["changes"]) or "none"),
        ("seeds", ", ".join(map(str, seeds))),
        ("epoch selected by", study["protocol"]),
    ]
    if study["shows"]:
        facts.append(("in the paper", study["shows"]))
    warnings = [*study.get("notes", []), *([OPTIMISTIC_WARNING] if study["protocol"] == OPTIMISTIC else [])]
    if measure.trains and len(seeds) < 3:
        count = counted(len(seeds), "seed")
        warnings.append(f"{count}: differences between variants may be due to chance; use --seeds 5.")
    shown = [section for section in sections if section is not None]
    return Page(f"{study['title']} on {study['corpus']}", facts, [], warnings, shown)


def _section_of(measure: Measure, study: StudyRecord) -> Section | None:
    section = measure.section(study, summarised_variants(measure, study))
    if not (section is None or isinstance(section, Section)):
        raise UserError(f"measure {measure.name!r}: section() must return a {Section.__name__} or None")
    return section


def _left_out_section(study: StudyRecord) -> Section | None:
    rows = [
        [variant["name"], str(run["seed"]), run["status"] or "not run yet", run["reason"]]
        for variant in study["variants"]
        for run in variant["runs"]
        if run["status"] != DONE
    ]
    table = ReportTable("left_out", "Runs without a result", ["variant", "seed", "status", "reason"], rows)
    return Section("Missing runs", [table]) if rows else None
