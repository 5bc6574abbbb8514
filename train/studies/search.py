"""Hyperparameter search with Optuna, using only the validation split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...toolkit.base.errors import UserError
from ..config import load_config, parse_yaml
from .definition import Study, Variant
from .record import DONE, JOURNAL, SEARCH, StudyRecord
from .runs import Perform, run_study

SAMPLER_SEED = 0


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers in [low, high], integers if both bounds are; sampled on a logarithmic scale with `log`."""

    low: float | int
    high: float | int
    log: bool = False


Space = Mapping[str, Range | list[object]]


def parse_space(texts: Sequence[str]) -> dict[str, Range | list[object]]:
    """Parses search spaces of the form KEY=A,B,C or KEY=LOW..HIGH or KEY=log:LOW..HIGH.

    Raises:
        UserError: a text does not have this form.
    """
    space: dict[str, Range | list[object]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        where = f"--search {text}"
        if not equals or not listed:
            raise UserError(f"{where}: must have the form section.key=a,b,c or section.key=low..high, log:low..high")
        if ".." in listed:
            bounds = [_number(bound, where) for bound in listed.removeprefix("log:").split("..", 1)]
            log = listed.startswith("log:")
            if bounds[0] >= bounds[1] or (log and bounds[0] <= 0):
                raise UserError(
                    f"{where}: the lower bound must be below the upper bound{', and both above 0' if log else ''}"
                )
            space[key.strip()] = Range(bounds[0], bounds[1], log)
        else:
            values = parse_yaml(f"[{listed}]", where)
            if not isinstance(values, list):
                raise UserError(f"{where}: must be a list of comma-separated values")
            space[key.strip()] = values
    return space


def run_search(
    store_path: Path,
    space: Space,
    out: Path,
    recipe: str,
    changes: Sequence[str],
    seeds: Sequence[int],
    trials: int,
    jobs: int,
    device: str,
    notify: Callable[[str], None],
    first: Mapping[str, object] | None = None,
    perform: Perform | None = None,
) -> StudyRecord:
    """Runs trials until there are `trials`, each proposed from the results of the earlier ones.

    A trial's value is its mean weighted F1 on the validation split at the epoch selected on that split; the test split
    is not used. Trials are recorded in OUT/search.journal, from which an interrupted search resumes.

    Args:
        store_path, out, recipe, changes, seeds, jobs, device, notify: as for `run_study`.
        space: maps "section.key" to the values to try.
        trials: total number of trials, including those of an earlier search in `out`.
        first: the first trial, "section.key" to a value in the space; None to draw it like the others.
        perform: as for `run_study`.

    Returns:
        The record that `run_study` returns for all trials, with `best`: number, value, and `settings` as for `--set`.

    Raises:
        UserError: Optuna is not installed, a setting is invalid, `out` contains another search, or no trial succeeds.
    """
    optuna = _optuna()
    config = load_config(recipe, changes)
    if config.train.protocol != "validation":
        raise UserError(
            "--search selects on the validation split, so it cannot be used with train.protocol=best-on-test"
        )
    for key, values in space.items():  # so that an invalid key is reported before any trial
        for value in [values.low, values.high] if isinstance(values, Range) else values:
            Variant("", {key: value}).config(recipe, changes)
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / JOURNAL)))
    search = optuna.create_study(
        study_name=SEARCH,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=SAMPLER_SEED),
    )
    requested = {"space": repr(dict(space)), "recipe": recipe, "changes": list(changes), "seeds": list(seeds)}
    if search.user_attrs and search.user_attrs != requested:
        raise UserError(f"{out}: contains a search with other settings; choose another --out")
    for key, value in requested.items():
        search.set_user_attr(key, value)
    if first is not None and not search.trials:
        search.enqueue_trial(dict(first))
    state = optuna.trial.TrialState
    told: set[str] = set()

    def tell(line: str) -> None:  # once, though each round is a study
        if line not in told:
            told.add(line)
            notify(line)

    found = None
    while True:
        waiting = [t.number for t in search.trials if t.state == state.RUNNING]  # of an interrupted search
        while len(waiting) < jobs and len(_begun(search)) < trials:
            trial = search.ask()
            for key, values in space.items():
                _suggest(trial, key, values)
            waiting.append(trial.number)
        if not waiting and found is not None:
            break
        study = Study("search", "Search on the validation split", [_variant(t) for t in _begun(search)])
        found = run_study(store_path, study, out, recipe, changes, seeds, jobs, device, tell, perform=perform)
        for number in waiting:
            row = found["variants"][number]
            selected = row.get("selected")
            if selected and all(run["status"] == DONE for run in row["runs"]):
                search.tell(number, selected["weighted_f1"]["mean"])
            else:
                search.tell(number, state=state.FAIL)
    if not any(t.state == state.COMPLETE for t in search.trials):
        raise UserError(f"{out}: no trial succeeded; see the reasons in study.json")
    best, value = search.best_trial, search.best_value
    settings = _variant(best).settings()
    found["best"] = {"number": best.number, "value": value, "settings": settings}
    chosen = " ".join(f"--set {setting}" for setting in settings)
    notify(f"best of {len(_begun(search))} trials on validation: trial {best.number}, {100 * value:.2f}: {chosen}")
    return found


def _begun(search) -> list:
    """The trials that have been proposed, which a first one that is only enqueued has not."""
    return [trial for trial in search.trials if trial.state.name != "WAITING"]


def _variant(trial) -> Variant:
    settings = ", ".join(
        f"{key.split('.')[-1]} {value:.3g}" if isinstance(value, float) else f"{key.split('.')[-1]} {value}"
        for key, value in trial.params.items()
    )
    return Variant(f"trial {trial.number}, {settings}", dict(trial.params))


def _suggest(trial, key: str, values: Range | list[object]) -> None:
    if not isinstance(values, Range):
        trial.suggest_categorical(key, values)
    elif isinstance(values.low, int) and isinstance(values.high, int):
        trial.suggest_int(key, values.low, values.high, log=values.log)
    else:
        trial.suggest_float(key, values.low, values.high, log=values.log)


def _number(text: str, where: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        try:
            if math.isfinite(number := float(text)):
                return number
        except ValueError:
            pass
    raise UserError(f"{where}: {text!r} is not a number")


def _optuna():
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise UserError("--search needs Optuna: pip install 'erc-toolkit[search]'") from None
    return optuna
