"""Published results: manifests/published.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ... import manifests

RECALL = "recall"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A row of one of the paper's tables of ablations, sensitivity and cost.

    Attributes:
        name: as printed.
        variant: the variant of our study with the same meaning, or None.
        reason: why there is none.
        settings: of our study's grid, in the place of a variant's name.
        values: corpus to the printed values, in the order of the table's columns; corpora without any are left out.
        content: the row as it stands in the file.
    """

    name: str
    variant: str | None
    reason: str
    settings: dict[str, object]
    values: dict[str, list[float]]
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table of the paper.

    Attributes:
        number: e.g. "Table 4".
        study: our study that measures it.
        columns: names of our measures, in the printed order.
        rows: in the printed order.
        note: on what is printed, or empty.
    """

    number: str
    study: str
    columns: list[str]
    rows: list[PublishedRow]
    note: str = ""


@dataclass(frozen=True, slots=True)
class PublishedSystem:
    """A system's row of a paper's main table, in percent.

    Attributes:
        name: as printed.
        variant: of our study `models`, or None with a reason.
        selection: how the epoch was selected.
        f1, acc: of each class, in the order of the corpus's classes.
        acc_is: what the printed ACC is: "precision", RECALL, or "neither".
        wa_acc, weighted_f1: overall.
    """

    name: str
    variant: str | None
    reason: str
    selection: str
    f1: list[float | None]
    acc: list[float | None]
    acc_is: str
    wa_acc: float | None
    weighted_f1: float | None


@cache
def published() -> dict[str, Any]:
    """The whole file; not to be changed."""
    return yaml.safe_load((resources.files(manifests) / "published.yaml").read_text(encoding="utf-8"))


def published_tables() -> dict[str, PublishedTable]:
    """The paper's tables of ablations, sensitivity and cost, by number."""
    found = {}
    for number, table in published()["tables"].items():
        rows = []
        for row in table["rows"]:
            values = {corpus: row[corpus] for corpus in ("iemocap", "meld") if isinstance(row.get(corpus), list)}
            reason, settings = row.get("reason", ""), row.get("settings", {})
            rows.append(PublishedRow(row["name"], row.get("variant"), reason, settings, values, row))
        found[number] = PublishedTable(number, table["study"], table["columns"], rows, table.get("note", ""))
    return found


def published_systems(corpus: str, table: str) -> tuple[list[str], list[PublishedSystem]]:
    """The classes of a corpus in the paper's order, and the rows of its main table.

    Args:
        corpus: "iemocap" or "meld".
        table: e.g. "Table 2".
    """
    content = published()[corpus]
    found = [
        PublishedSystem(
            row["name"],
            row["variant"],
            row.get("reason", ""),
            row["selection"],
            row["per_class"],
            row["per_class_acc"],
            row["acc_is"],
            row["wa_acc"],
            row["weighted_f1"],
        )
        for row in content["rows"]
        if row.get("table") == table
    ]
    return content["classes"], found


def unfilled(shows: str) -> str:
    """A sentence on the rows of the paper's tables that a study cannot fill; empty if there are none.

    Args:
        shows: what the study shows in the paper, e.g. "Tables 2, 3 and 9".
    """
    reasons: dict[str, str] = {}
    numbers = {f"Table {number}" for number in re.findall(r"\d+", shows)} if shows.startswith("Table") else set()
    for content in published().values():
        for row in content.get("rows", []) if isinstance(content, dict) else []:
            if row.get("table") in numbers and row["variant"] is None:
                reasons[row["name"]] = row["reason"]
    for number, table in published_tables().items():
        reasons |= {row.name: row.reason for row in table.rows if number in numbers and row.reason}
    if not reasons:
        return ""
    return "In the paper's tables but not here: " + "; ".join(f"{name} ({why})" for name, why in reasons.items()) + "."
