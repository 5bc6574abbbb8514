"""Tables of a report as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...toolkit.base.csv_cells import csv_text
from ...toolkit.base.files import write_atomically
from .metrics import Spread

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table as displayed.

    Attributes:
        name: name of its files.
        title: what it shows.
        head: column heads; the first column names the row.
        rows: strings, as many per row as in `head`.
        note: a sentence below it, or empty.
        groups: a line above the heads: what each run of columns has in common (or empty), and how many they are.
    """

    name: str
    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    groups: list[tuple[str, int]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes FOLDER/NAME.csv and FOLDER/NAME.tex."""
        write_atomically(folder / f"{self.name}.csv", csv_text([self.full_heads(), *self.rows]).encode())
        write_atomically(folder / f"{self.name}.tex", self.latex().encode())

    def full_heads(self) -> list[str]:
        """The column heads, each with the name of its group before it."""
        above = [name for name, columns in self.groups for _ in range(columns)] or [""] * len(self.head)
        return [f"{group} {head}".strip() for group, head in zip(above, self.head, strict=True)]

    def latex(self) -> str:
        """A tabular with booktabs' rules."""
        lines = [
            rf"% {self.title.replace(chr(10), ' ')}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}",
            r"\toprule",
        ]
        if self.groups:
            cells = (rf"\multicolumn{{{columns}}}{{c}}{{{_escaped(name)}}}" for name, columns in self.groups)
            lines.append(" & ".join(cells) + r" \\")
        lines += [
            _line(self.head),
            r"\midrule",
            *(_line(row) for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
        return "\n".join(lines)

    def markdown(self) -> str:
        """A table of Markdown, with the note below."""
        heads = [head or " " for head in self.full_heads()]
        lines = [_markdown_line(heads), "|" + "---|" + "---:|" * (len(heads) - 1)]
        lines += [_markdown_line(row) for row in self.rows]
        note = self.note.replace("*", "\\*")
        return "\n".join([*lines, *(["", note] if note else []), ""])


def percent(fraction: float | None) -> str:
    """E.g. 0.6743 as "67.43"; a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def mean_and_spread(part: Spread | None) -> str:
    """A measure's `Spread` in percent: "67.43 ± 0.51", or the mean alone for one seed."""
    if part is None:
        return "–"
    return percent(part["mean"]) + (f" ± {percent(part['std'])}" if part["std"] is not None else "")


def _line(cells: list[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _markdown_line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ").replace("*", "\\*") for cell in cells) + " |"


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(c, c) for c in cell).replace("±", r"$\pm$").replace("–", "--")
