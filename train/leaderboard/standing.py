"""What a board says: intervals, which differences hold, and what choosing the epoch on the test split would gain."""

from __future__ import annotations

import functools
import itertools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from ..loop.seeds import spread_of
from ..scores.coded import from_coded
from ..scores.metrics import Spread
from ..scores.resampling import Difference, differences, few_dialogues, intervals
from ..studies.measures.models import LEVEL, holm
from .record import Board, BoardRow, BoardStore, f1_by_class, scores_of_runs

MEASURES = ("weighted_f1", "accuracy", "macro_f1", "weighted_precision", "uar")

_NAMED = 4  # models in a sentence


@dataclass(frozen=True, slots=True)
class Standing:
    """A row that has runs, with what follows from them.

    Attributes:
        row: of the board.
        name: its title; with a number if several rows of a store have it.
        scores: of MEASURES on the test split, fractions.
        selected: weighted F1 on the validation split, at the selected epochs.
        interval: 95 % interval of weighted F1, over dialogues and seeds.
        lost: points of weighted F1 that are lost when the test split does not choose the epoch, a fraction: highest of
            all epochs on the test split minus that of the selected epoch, the mean over the runs.
        by_class: F1 of each class.
        behind: the store's first row minus this one, weighted F1; None for the first.
        p: Holm-corrected for all pairs of the store; None for the first.
    """

    row: BoardRow
    name: str
    scores: dict[str, Spread]
    selected: Spread
    interval: tuple[float, float]
    lost: float
    by_class: list[float]
    behind: Difference | None
    p: float | None

    @property
    def tied(self) -> bool:
        """Whether it is the first, or its difference to the first may be luck."""
        return self.p is None or self.p >= LEVEL


@dataclass(frozen=True, slots=True)
class Standings:
    """All rows of one store.

    Attributes:
        store: of the board.
        ranked: rows with runs, highest mean weighted F1 first.
        pairs: maps the numbers of two ranked rows to the difference, first minus second, and its corrected p.
        absent: rows without runs.
        warning: about intervals and p-values, or empty.
    """

    store: BoardStore
    ranked: list[Standing]
    pairs: dict[tuple[int, int], tuple[float, float]]
    absent: list[BoardRow]
    warning: str

    def headline(self) -> str:
        """Who is best, and whether that is more than luck, in a sentence or two."""
        if not self.ranked:
            return f"{self.store['name']}: no model has a result."
        first, *others = self.ranked
        spread = first.scores["weighted_f1"]
        deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.1f}"
        best = f"{first.name} is first with {100 * spread['mean']:.1f}{deviation}"
        tied = [other.name for other in others if other.tied]
        if not others:
            return f"{best}; it is the only model."
        if not tied:
            return f"{best}, better than every other model at {100 * LEVEL:g} %."
        rest = len(others) - len(tied)
        if not rest and len(tied) > 1:
            return f"{best}, but its lead over every other model may be luck."
        if len(tied) > _NAMED + 1:
            tied[_NAMED:] = [f"{len(tied) - _NAMED} others"]
        names = " and ".join([", ".join(tied[:-1]), tied[-1]] if len(tied) > 1 else tied)
        worse = f"; it is better than the {'other' if rest == 1 else f'{rest} others'}" if rest else ""
        return f"{best}, but its lead over {names} may be luck{worse}."


def standings(board: Board) -> list[Standings]:
    """The standings on every store, in the order of the board."""
    return [_of_store(store, [row for row in board["rows"] if row["store"] == key]) for key, store in _stores(board)]


def _stores(board: Board) -> list[tuple[str, BoardStore]]:
    return [(store["content_sha256"], store) for store in board["stores"]]


def _of_store(store: BoardStore, rows: list[BoardRow]) -> Standings:
    scored = [(row, scores_of_runs(store, row)) for row in rows if row["runs"]]
    scored.sort(key=lambda one: -statistics.fmean(one[1]["weighted_f1"]))
    about = (tuple(store["labels"]), tuple(store["dialogues"]), store["true"])
    predicted = [tuple(run["predicted"] for run in row["runs"]) for row, _ in scored]
    order = list(itertools.combinations(range(len(scored)), 2))
    found = {pair: _difference(*about, predicted[pair[1]], predicted[pair[0]]) for pair in order}
    corrected = dict(zip(order, holm([found[pair].p for pair in order]), strict=True))
    names = _names([row for row, _ in scored])
    ranked = []
    for number, (row, scores) in enumerate(scored):
        gains = [run["best_on_test"] - value for run, value in zip(row["runs"], scores["weighted_f1"], strict=True)]
        ranked.append(
            Standing(
                row,
                names[number],
                {measure: spread_of(scores[measure]) for measure in MEASURES},
                spread_of([run["selected"] for run in row["runs"]]),
                _interval(*about, predicted[number]),
                statistics.fmean(gains),
                f1_by_class(store, row),
                found[0, number] if number else None,
                corrected[0, number] if number else None,
            )
        )
    pairs = {pair: (found[pair].value, corrected[pair]) for pair in order}
    warning = few_dialogues(len(store["dialogues"])) or ""
    return Standings(store, ranked, pairs, [row for row in rows if not row["runs"]], warning)


# A board is written after each row; what it said about the others is remembered.
@functools.cache
def _difference(
    labels: tuple[str, ...], dialogues: tuple[int, ...], true: str, first: tuple[str, ...], second: tuple[str, ...]
) -> Difference:
    """How weighted F1 of the second differs from the first's, each the coded predictions of its seeds."""
    one, other = ([from_coded(labels, dialogues, true, run) for run in predicted] for predicted in (first, second))
    return differences(one, other)["weighted_f1"]


@functools.cache
def _interval(
    labels: tuple[str, ...], dialogues: tuple[int, ...], true: str, predicted: tuple[str, ...]
) -> tuple[float, float]:
    return intervals([from_coded(labels, dialogues, true, one) for one in predicted])["weighted_f1"]


def _names(rows: list[BoardRow]) -> list[str]:
    """Titles, numbered where several rows have the same, e.g. of boards with other settings that were joined."""
    titles = [row["title"] for row in rows]
    seen: dict[str, int] = {}
    names = []
    for title in titles:
        seen[title] = seen.get(title, 0) + 1
        names.append(f"{title} ({seen[title]})" if titles.count(title) > 1 else title)
    return names


def command_of(row: BoardRow, store: BoardStore) -> list[str]:
    """The command that makes a row's runs again, as arguments."""
    settings = [*row["changes"], *(f"data.{m}={json.dumps(pin)}" for m, pin in row["features"].items())]
    if "data.modalities" not in {change.partition("=")[0] for change in settings}:
        settings.append(f"data.modalities={json.dumps(list(row['features']))}")
    seeds = [run["seed"] for run in row["runs"]] or [0]
    return [
        *("erc-toolkit", "train", f"{store['name']}.h5", "--recipe", row["recipe"], "--model", row["model"]),
        *(part for change in settings for part in ("--set", change)),
        *("--seed", str(min(seeds)), "--seeds", str(len(seeds))),
        *("--out", str(Path("runs") / row["model"])),
    ]
