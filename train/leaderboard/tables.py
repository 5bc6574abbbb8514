"""A board as tables, and as files: one CSV line and one LaTeX line a row, Markdown."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence

from ..scores.resampling import p_text
from ..scores.tables import ReportTable, mean_and_spread, percent
from ..studies.applied import pin_in_words
from ..studies.measures.models import LEVEL
from .record import BoardRow, BoardStore
from .standing import MEASURES, Standing, Standings, command_of

_DASH = "–"
_ABOUT = (
    "Every model on the same features and splits. The epoch, and where a row was tuned its settings, were chosen on "
    "the validation split alone. Made with `erc-toolkit leaderboard`."
)


def ranking(standings: Standings) -> ReportTable:
    """The main table of a store."""
    head = ["", "weighted F1", "95 % interval", "behind the first", "p (Holm)", "accuracy", "macro F1", "validation"]
    head += ["lost without test", "parameters", "s/epoch", "MB", "seeds"]
    rows = []
    for one in standings.ranked:
        behind = _DASH if one.behind is None else f"{100 * one.behind.value:.2f}"
        p = _DASH if one.p is None else p_text(one.p) + ("" if one.tied else "*")
        rows.append(
            [
                one.name,
                mean_and_spread(one.scores["weighted_f1"]),
                f"{percent(one.interval[0])} to {percent(one.interval[1])}",
                behind,
                p,
                mean_and_spread(one.scores["accuracy"]),
                mean_and_spread(one.scores["macro_f1"]),
                mean_and_spread(one.selected),
                f"{100 * one.lost:.2f}",
                *_cost(one.row),
                str(len(one.row["runs"])),
            ]
        )
    device = next((row.row["device"] for row in standings.ranked), "")
    note = (
        f"Test split, percent, mean ± standard deviation over the seeds. * worse than the first at {100 * LEVEL:g} %: "
        "permutation test over dialogues and bootstrap over dialogues and seeds, the larger p, Holm-corrected for all "
        "pairs of models. Lost without test: points that the same runs would gain if the test split chose the epoch. "
        f"Time and memory on {device}: medians, the most of a run, with PyTorch itself."
        f"{f' Warning: {standings.warning}.' if standings.warning else ''}"
    )
    return ReportTable(_stem("ranking", standings.store), f"Ranking, {standings.store['name']}", head, rows, note)


def _cost(row: BoardRow) -> list[str]:
    memory = [run["peak_memory"] for run in row["runs"] if run["peak_memory"] is not None]
    epoch = statistics.median(run["epoch_s"] for run in row["runs"])
    return [f"{row['parameters']:,}", f"{epoch:.2f}", f"{max(memory) / 1e6:,.0f}" if memory else _DASH]


def emotions(standings: Standings) -> ReportTable:
    """F1 of each class."""
    rows = [[one.name, *map(percent, one.by_class)] for one in standings.ranked]
    title = "F1 of each emotion, test split, percent"
    return ReportTable(_stem("emotions", standings.store), title, ["", *standings.store["labels"]], rows)


def pairs(standings: Standings) -> ReportTable:
    """Every difference."""
    names = [one.name for one in standings.ranked]
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            if i == j:
                cells.append("")
                continue
            difference, p = standings.pairs[min(i, j), max(i, j)]
            cells.append(f"{100 * (difference if i < j else -difference):+.1f}{'*' if p < LEVEL else ''}")
        rows.append([name, *cells])
    note = f"Weighted F1 of the row minus that of the column, points; * significant at {100 * LEVEL:g} % as above."
    return ReportTable(_stem("pairs", standings.store), "Every difference", ["", *names], rows, note)


def protocol(standings: Standings) -> ReportTable:
    """How each row was made."""
    rows = []
    for one in standings.ranked:
        row, tuned = one.row, one.row["tuned"]
        trials = "not tuned" if tuned is None else f"{tuned['trials']} trials"
        chosen = ", ".join(tuned["settings"]) if tuned else _DASH
        made = f"{row['version']} {(row['revision'] or '')[:12]}".strip()
        seeds = ", ".join(str(run["seed"]) for run in row["runs"])
        epochs = ", ".join(f"{run['epoch']} of {run['epochs']}" for run in row["runs"])
        seconds = statistics.median(run["seconds"] for run in row["runs"])
        rows.append([one.name, row["recipe"], trials, chosen, epochs, seeds, f"{seconds:.0f}", made, row["device"]])
    head = ["", "recipe", "tuned", "chosen", "epochs", "seeds", "s/run", "erc-toolkit", "device"]
    title = "How each row was made"
    note = "The column `command` of leaderboard.csv makes a row's runs again. Tuning saw the validation split alone."
    return ReportTable(_stem("protocol", standings.store), title, head, rows, note)


def absent(standings: Standings) -> ReportTable | None:
    """Models without a result, and why."""
    rows = [[row["title"], row["reason"]] for row in standings.absent]
    return ReportTable(_stem("absent", standings.store), "Without a result", ["", "reason"], rows) if rows else None


def across(boards: Sequence[Standings]) -> ReportTable:
    """Weighted F1 of every model on every store; the first of each and those tied with it are marked."""
    found: dict[str, dict[int, Standing]] = {}
    for number, standings in enumerate(boards):
        for one in standings.ranked:
            found.setdefault(one.name, {})[number] = one
    rows = []
    for name, places in found.items():
        cells = []
        for number in range(len(boards)):
            one = places.get(number)
            mark = "" if one is None else " (first)" if one.p is None else " (tied)" if one.tied else ""
            cells.append(_DASH if one is None else f"{percent(one.scores['weighted_f1']['mean'])}{mark}")
        rows.append([name, *cells])
    note = "Tied: its difference to the first may be luck."
    return ReportTable("stores", "Weighted F1 on every store", ["", *(b.store["name"] for b in boards)], rows, note)


def features_in_words(row: BoardRow) -> str:
    """The features in use."""
    return ", ".join(pin_in_words(pin) for pin in row["features"].values())


def csv_rows(boards: Sequence[Standings]) -> list[list[object]]:
    """A line for every row of every store, with all that makes it again."""
    head = ["store", "store_sha256", "corpus", "features", "rank", "model", "name", "seeds"]
    head += [f"{measure}_{part}" for measure in MEASURES for part in ("mean", "std")]
    head += ["low", "high", "behind", "p_holm", "validation_mean", "lost_without_test", "parameters", "epoch_s"]
    head += ["peak_memory", "tuning_trials", "device", "version", "revision", "torch", "reason", "command"]
    lines: list[list[object]] = [[*head]]
    for standings in boards:
        for rank, one in enumerate(standings.ranked, 1):
            lines.append(_csv_row(standings.store, one.row, one, rank))
        lines += [_csv_row(standings.store, row, None, "") for row in standings.absent]
    return lines


def _csv_row(store: BoardStore, row: BoardRow, one: Standing | None, rank: object) -> list[object]:
    scores: list[object] = [""] * (2 * len(MEASURES) + 9)
    if one is not None:
        spreads: list[Mapping[str, object]] = [{**one.scores[measure]} for measure in MEASURES]
        scores = [s[part] if s[part] is not None else "" for s in spreads for part in ("mean", "std")]
        scores += [*one.interval, *(("", "") if one.behind is None else (one.behind.value, one.p))]
        memory = [run["peak_memory"] for run in row["runs"] if run["peak_memory"] is not None]
        epoch = statistics.median(run["epoch_s"] for run in row["runs"])
        scores += [one.selected["mean"], one.lost, row["parameters"], epoch, max(memory) if memory else ""]
    return [
        *(store["name"], store["content_sha256"], store["corpus"], features_in_words(row), rank, row["model"]),
        *(one.name if one else row["title"], " ".join(str(run["seed"]) for run in row["runs"]), *scores),
        *(row["tuned"]["trials"] if row["tuned"] else 0, row["device"], row["version"]),
        *(row["revision"] or "", row["torch"], row["reason"], shlex.join(command_of(row, store))),
    ]


def tables_of(standings: Standings) -> list[ReportTable]:
    """All tables of a store."""
    found = [ranking(standings), emotions(standings), pairs(standings), protocol(standings)]
    return [table for table in [*found, absent(standings)] if table is not None and table.rows]


def markdown(boards: Sequence[Standings], title: str) -> str:
    """A page in Markdown: headlines first, then the tables."""
    lines = [f"# {title}", "", _ABOUT, ""]
    lines += [f"- **{b.store['name']}**: {b.headline()}" for b in boards]
    if len(boards) > 1:
        lines += ["", across(boards).markdown()]
    for standings in boards:
        store = standings.store
        sizes = ", ".join(f"{name} {count:,}" for name, count in store["splits"].items())
        words = ", ".join(dict.fromkeys(features_in_words(one.row) for one in standings.ranked))
        lines += ["", f"## {store['name']}", ""]
        lines += [
            f"{store['corpus']}: {sizes} utterances. Features: {words}. Store `{store['content_sha256'][:12]}`.",
            "",
        ]
        for number, table in enumerate(tables_of(standings)):
            lines += [*([] if number == 0 else [f"### {table.title}", ""]), table.markdown()]
    return "\n".join(lines)


def _stem(name: str, store: BoardStore) -> str:
    return f"{name}_{store['name']}_{store['content_sha256'][:8]}"
