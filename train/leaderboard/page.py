"""The files of a board: a page, CSV, LaTeX, Markdown, and board.json itself."""

from __future__ import annotations

from pathlib import Path

from ...toolkit.base.csv_cells import csv_text
from ...toolkit.base.files import write_atomically
from ..reports.figures import ranking_figure
from ..reports.page import Page, PageFigure, Section, write_page
from .record import BOARD, Board, write_board
from .standing import Standings, standings
from .tables import across, csv_rows, features_in_words, markdown, ranking, tables_of

PAGE, TABLE, LATEX, TEXT = "leaderboard.html", "leaderboard.csv", "leaderboard.tex", "leaderboard.md"
FILES = (BOARD, PAGE, "leaderboard_files", TABLE, LATEX, TEXT)
TITLE = "Leaderboard"


def write_files(out: Path, board: Board) -> list[Standings]:
    """Writes everything into a folder; returns what the board says."""
    found = standings(board)
    out.mkdir(parents=True, exist_ok=True)
    write_board(out, board)
    write_atomically(out / TABLE, csv_text(csv_rows(found)).encode())
    write_atomically(out / LATEX, "\n".join(ranking(one).latex() for one in found).encode())
    write_atomically(out / TEXT, markdown(found, TITLE).encode())
    write_page(board_page(board, found), out / PAGE)
    return found


def board_page(board: Board, found: list[Standings]) -> Page:
    """The page of a board, given its standings."""
    headline, sections = [], []
    if len(found) > 1:
        sections.append(Section("All stores", [across(found)]))
    for one in found:
        if one.ranked:
            first = one.ranked[0]
            mean = first.scores["weighted_f1"]["mean"]
            bounds = " to ".join(f"{100 * bound:.1f}" for bound in first.interval)
            headline.append((f"{first.name}, {one.store['name']}", f"{100 * mean:.1f}", bounds))
        tables = tables_of(one)
        section = Section(one.store["name"], tables[:1], text=one.headline(), stacked=True)
        if one.ranked:
            figure = ranking_figure(
                [r.name for r in one.ranked],
                [100 * r.scores["weighted_f1"]["mean"] for r in one.ranked],
                [(100 * r.interval[0], 100 * r.interval[1]) for r in one.ranked],
                [r.tied for r in one.ranked],
            )
            caption = (
                "Weighted F1 on the test split with 95 % intervals. "
                "Filled: the first, and those whose difference to it may be luck."
            )
            section.figures.append(PageFigure(f"ranking_{one.store['content_sha256'][:8]}", caption, figure))
        sections.append(section)
        if tables[1:]:
            sections.append(Section(f"{one.store['name']}: more", tables[1:], stacked=True))
    asked = board.get("asked", {})
    facts = [("stores", ", ".join(f"{s.store['name']} ({s.store['content_sha256'][:12]})" for s in found) or "none")]
    facts += [("features", "; ".join(dict.fromkeys(features_in_words(r.row) for s in found for r in s.ranked)))]
    facts += [("epoch selected by", "validation")]
    if asked:
        tune = asked.get("tune")
        facts += [("tuning", f"{tune} trials of each model, on validation" if tune else "none: the recipes' settings")]
        facts += [("settings changed", ", ".join(asked.get("changes", [])) or "none")]
    warnings = [f"{one.store['name']}: {one.warning}" for one in found if one.warning]
    if any(len(r.row["runs"]) < 3 for one in found for r in one.ranked):
        warnings.append("Some rows have fewer than 3 seeds: their spread says little.")
    return Page(TITLE, facts, headline, warnings, sections, sortable=True)
