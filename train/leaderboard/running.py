"""Makes a board: tunes every model on the validation split alone, and trains it with every seed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...toolkit.base.device import device_name, pick_device
from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.revision import revision
from ...toolkit.base.version import __version__
from ...toolkit.base.words import counted
from ...toolkit.store import FeatureStore
from ..config import Config, load_config
from ..loop.records import EpochLine, TrainResult
from ..loop.run_folder import METRICS, WEIGHTS, read_run
from ..models.registry import model_class
from ..scores.coded import coded
from ..scores.predictions import read_predictions
from ..studies.applied import pinned
from ..studies.definition import Study, Variant
from ..studies.measures.models import run_cost
from ..studies.record import DONE, STUDY, read_study
from ..studies.runs import Perform, run_study
from ..studies.search import Range, Space, parse_space, run_search
from .record import Board, BoardRow, BoardRun, Tuning, store_record

# What every model is tuned in: settings that all or most have, around the values of the papers' scripts.
SPACE = {
    "train.lr": "log:1e-5..3e-3",
    "train.weight_decay": "log:1e-6..1e-2",
    "model.dropout": "0.0..0.6",
}
TRACKED = "train.track_test=true"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is the same for every row of a board.

    Attributes:
        recipe: name or file; None for the one named after each store's corpus.
        changes: "section.key=value" for every model.
        seeds: how many, from 0.
        tune: trials of each model; 0 to leave the recipes as they are.
        space: "section.key" to values as `parse_space` reads them.
    """

    recipe: str | None
    changes: list[str]
    seeds: int
    tune: int
    space: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, as board.json has them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Work:
    """Where and how a store's rows are made.

    Attributes:
        path: the store.
        recipe: with which `model.name` selects each model's own.
        asked: tuning, seeds and settings.
        out: folder for the runs and trials of all models.
        jobs, device, notify, perform: as for `run_study`.
    """

    path: Path
    recipe: str
    asked: Asked
    out: Path
    jobs: int
    device: str
    notify: Callable[[str], None]
    perform: Perform | None = None


def make_row(board: Board, work: Work, name: str) -> None:
    """Puts a model's row for a store on a board, instead of one that it has already; what is done is not repeated.

    Args:
        board: to which the row, and if necessary the store, is added.
        work: the store, and how its rows are made.
        name: of the model.

    Raises:
        UserError: a setting is wrong. A model that fails or does not suit the store gets a row with the reason.
    """
    changes = [f"model.name={name}", *known_changes(work.asked.changes, name, work.recipe)]
    base = load_config(work.recipe, changes)
    with FeatureStore.open(work.path) as store:
        row = _blank(store, name, base, work)
        try:
            row["features"] = pinned(base, store)
            if work.asked.tune:
                row["tuned"] = _tuned(work, name, base, changes)
                changes += row["tuned"]["settings"]
            config = load_config(work.recipe, changes)
            row["changes"], row["config"] = changes[1:], _without_seed(config)
            _train(board, store, row, work, changes)
        except UserError as error:
            # Without the folder, which says something about whose it is.
            row["reason"] = one_line(error).replace(f"{work.out / name}/", "").replace(str(work.path), work.path.name)
            work.notify(f"{row['title']} on {work.path.stem}: no result: {row['reason']}")
    board["rows"] = [r for r in board["rows"] if (r["store"], r["model"]) != (row["store"], row["model"])]
    board["rows"].append(row)


def _blank(store: FeatureStore, name: str, config: Config, work: Work) -> BoardRow:
    """A row without results."""
    info = model_class(name).about
    return {
        "store": store.content_hash,
        "model": name,
        "title": info.title + (" (reconstruction)" if info.specified.startswith("reconstruction") else ""),
        "features": {},
        "recipe": work.recipe,
        "changes": [],
        "config": _without_seed(config),
        "tuned": None,
        "version": __version__,
        "revision": revision(),
        "torch": str(torch.__version__),
        "device": device_name(pick_device(work.device)),
        "parameters": 0,
        "runs": [],
        "reason": "",
    }


def _without_seed(config: Config) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(config.as_dict()))
    for key in ("seed", "track_test"):
        content["train"].pop(key)
    return content


def known_changes(changes: Sequence[str], name: str, recipe: str) -> list[str]:
    """The changes without those of settings that this model lacks and some other has."""
    own = {field.name for field in dataclasses.fields(load_config(recipe, [f"model.name={name}"]).model)}
    found = []
    for change in changes:
        section, _, key = change.partition("=")[0].strip().partition(".")
        if section != "model" or key in own:
            found.append(change)
    return found


def space_of(config: Config, space: Mapping[str, str]) -> tuple[Space, dict[str, Any]]:
    """The space in which a model is tuned, and the first trial: its own settings.

    Settings that the model lacks are left out, and ranges are widened to the recipe's own values, except for 0 on a
    logarithmic scale, where the first trial has the range's lower end.

    Args:
        config: the model's settings.
        space: "section.key" to values as `parse_space` reads them.
    """
    parsed = parse_space([f"{key}={values}" for key, values in space.items()])
    own, first = config.as_dict(), {}
    found: dict[str, Range | list[object]] = {}
    for key, values in parsed.items():
        section, _, name = key.partition(".")
        if name not in own[section]:
            continue
        value: Any = own[section][name]
        if isinstance(values, Range):
            if not isinstance(value, (int, float)):
                continue  # e.g. None: there is nothing to widen to
            if not (values.log and value <= 0):
                values = Range(min(values.low, value), max(values.high, value), values.log)
            value = min(max(value, values.low), values.high)
        elif value not in values:
            values = [value, *values]
        found[key], first[key] = values, value
    return found, first


def _tuned(work: Work, name: str, config: Config, changes: Sequence[str]) -> Tuning:
    """The settings that are best on the validation split, with the first seed."""
    asked, out = work.asked, work.out / name / "tuning"
    space, first = space_of(config, asked.space)
    if not space:
        raise UserError(f"{name} has no setting of {', '.join(asked.space)}; give others with --space")
    found = run_search(
        work.path,
        space,
        out,
        work.recipe,
        changes,
        [0],
        asked.tune,
        work.jobs,
        work.device,
        work.notify,
        first,
        work.perform,
    )
    best = found.get("best")
    assert best is not None  # run_search raises if no trial succeeded
    for weights in out.rglob(WEIGHTS):  # a search of large models would fill the disk
        weights.unlink()
    return {
        "trials": asked.tune,
        "space": {key: asked.space[key] for key in space},
        "settings": list(best["settings"]),
        "value": best["value"],
    }


def _train(board: Board, store: FeatureStore, row: BoardRow, work: Work, changes: Sequence[str]) -> None:
    """Trains the row's model with every seed and fills in its runs."""
    out, changes = work.out / row["model"] / "runs", [*changes, TRACKED]
    study = Study(row["model"], row["title"], [Variant("runs", {})], measure="results")
    if out.is_dir() and not _same(out, store, work.recipe, changes):
        shutil.rmtree(out)  # of other settings, which tuning no longer chooses
    seeds = range(work.asked.seeds)
    found = run_study(
        store.path, study, out, work.recipe, changes, seeds, work.jobs, work.device, work.notify, perform=work.perform
    )
    for run in found["variants"][0]["runs"]:
        if run["status"] != DONE or run["result"] is None:
            row["reason"] = row["reason"] or run["reason"].replace(str(work.path), work.path.name)
            continue
        folder = out / run["folder"]
        tested = read_predictions(folder)
        if (tested.true < 0).all():
            raise UserError(f"{store.path}: has no labelled test split, so models cannot be compared on it")
        if all(known["content_sha256"] != store.content_hash for known in board["stores"]):
            board["stores"].append(store_record(store, tested))
        lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
        if not row["runs"]:  # which another version or machine may have made
            facts = read_run(folder).facts
            row["version"], row["revision"] = facts["toolkit_version"], facts.get("revision")
            row["torch"], row["device"] = facts["torch_version"], facts["device"]
            row["parameters"] = facts["parameters"]
        row["runs"].append(_run(run["result"], lines, coded(tested.predicted)))
    if row["reason"]:
        work.notify(f"{row['title']}: {counted(len(row['runs']), 'run')} of {len(seeds)}: {row['reason']}")


def _same(out: Path, store: FeatureStore, recipe: str, changes: Sequence[str]) -> bool:
    """Whether the runs in a folder have these settings."""
    if not (out / STUDY).is_file():
        return True
    try:
        known = read_study(out)
    except UserError:
        return False
    asked = (recipe, list(changes), store.content_hash)
    return (known["recipe"], known["changes"], known["store"]["content_sha256"]) == asked


def _run(result: TrainResult, lines: Sequence[EpochLine], predicted: str) -> BoardRun:
    cost = run_cost(result, lines)
    tested = [line["test"]["weighted_f1"] for line in lines if "test" in line]
    return {
        "seed": result["seed"],
        "epoch": result["selected"]["epoch"],
        "epochs": result["epochs"],
        "selected": result["selected"]["weighted_f1"],
        "best_on_test": max(tested),
        "seconds": result["seconds"],
        "epoch_s": cost["epoch_s"],
        "peak_memory": result.get("peak_memory"),
        "predicted": predicted,
    }
