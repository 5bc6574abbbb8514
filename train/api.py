"""Training and evaluation from Python: `erc_toolkit.train`, `train_several`, `evaluate`, `study` and `compare`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from ..toolkit.base.errors import UserError
from ..toolkit.base.lock import locked
from ..toolkit.base.outputs import check_folder
from ..toolkit.store import FeatureStore
from .config import Config, idle_settings, load_config, recipe_of
from .loop import trainer
from .loop.evaluation import evaluate_run
from .loop.records import SeedsSummary, TrainResult
from .loop.run_folder import FILES
from .loop.seeds import train_seeds
from .reports import comparison
from .scores.metrics import Evaluation
from .studies import definition
from .studies.record import StudyRecord, check_study_folder
from .studies.runs import run_study

Settings = Mapping[str, object] | Sequence[str]


def configure(
    store: FeatureStore,
    *,
    recipe: str | None = None,
    model: str | None = None,
    settings: Settings = (),
    seed: int | None = None,
    notify: Callable[[str], None] = print,
) -> Config:
    """The settings of a training run: a recipe with changes.

    Args:
        store: an open store; if no recipe is given, the one named after its corpus is used.
        recipe: name of a recipe of the toolkit, or path of a YAML file.
        model: name of a model, trained with its own recipe.
        settings: mapping of "section.key" to a value, or strings "section.key=value" with the value in YAML.
        seed: random seed; None uses the recipe's.
        notify: called with a line that names the recipe.

    Raises:
        UserError: there is no such recipe, or a key or value is invalid.
    """
    if recipe is None:
        recipe = recipe_of(store)
        notify(f"recipe: {recipe} (named after the store's corpus)")
    else:
        notify(f"recipe: {recipe}")
    changes = [_text(key, value) for key, value in settings.items()] if isinstance(settings, Mapping) else settings
    config = load_config(recipe, [*([f"model.name={model}"] if model is not None else []), *changes])
    if seed is not None:
        config.train.seed = seed
    reasons: dict[str, list[str]] = {}
    for key, reason in idle_settings(config).items():
        reasons.setdefault(reason, []).append(key)
    for reason, keys in reasons.items():
        notify(f"note: without effect: {', '.join(keys)}: {reason}")
    return config


def train(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    model: str | None = None,
    settings: Settings = (),
    seed: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    notify: Callable[[str], None] = print,
) -> TrainResult:
    """Trains a model on a feature store and writes its run; `erc-toolkit train` is this function.

    The epoch is selected on the validation split unless `train.protocol` says otherwise.

    Args:
        store: a feature store.
        out: folder of the run, created if needed: config.yaml, model.safetensors, metrics.jsonl, predictions.csv,
            result.json.
        recipe: name of a recipe of the toolkit, or path of a YAML file; None uses the one named after the corpus.
        model: name of a model (`erc-toolkit models`), trained with its own recipe; None uses the recipe's.
        settings: changes, as {"model.window": 5} or ["model.window=5"].
        seed: random seed; None uses the recipe's.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        overwrite: replace an earlier run in `out`.
        resume: continue an interrupted training run in `out`.
        tensorboard: write TensorBoard events as well.
        notify: called with lines about what is used.

    Returns:
        The selected epoch with its measures, and the measures on the test split (None if it has no labels), as
        fractions.

    Raises:
        UserError: store, settings and folder do not fit together, or the loss becomes infinite or NaN.
    """
    with FeatureStore.open(store) as opened:
        config = configure(opened, recipe=recipe, model=model, settings=settings, seed=seed, notify=notify)
        _keep_inputs(Path(out), store, recipe)
        return trainer.train(
            opened, config, Path(out), device, notify, overwrite=overwrite, resume=resume, tensorboard=tensorboard
        )


def train_several(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    seeds: int,
    *,
    first_seed: int | None = None,
    recipe: str | None = None,
    model: str | None = None,
    settings: Settings = (),
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    notify: Callable[[str], None] = print,
) -> SeedsSummary:
    """Trains once for each of several seeds, in OUT/seed-N; other arguments and errors as for `train`.

    Args:
        seeds: number of seeds.
        first_seed: the first one; the others follow consecutively. None uses the recipe's.

    Returns:
        For each measure the mean, the sample standard deviation (None for one seed) and every value.
    """
    with FeatureStore.open(store) as opened:
        config = configure(opened, recipe=recipe, model=model, settings=settings, seed=first_seed, notify=notify)
        numbers = range(config.train.seed, config.train.seed + seeds)
        for number in numbers:
            _keep_inputs(Path(out) / f"seed-{number}", store, recipe)
        how = {"overwrite": overwrite, "resume": resume, "tensorboard": tensorboard}
        return train_seeds(opened, config, Path(out), numbers, device, notify, **how)


def evaluate(
    run: str | os.PathLike[str],
    store: str | os.PathLike[str] | None = None,
    *,
    split: str = "test",
    device: str = "auto",
    by: Sequence[str] = (),
    notify: Callable[[str], None] = print,
) -> Evaluation:
    """Evaluates a finished run; `erc-toolkit eval` is this function.

    Args:
        run: the folder that `train` wrote.
        store: a store other than the one used for training.
        split: "train", "val" or "test".
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        by: also report results by group: "length", "position", "speaker", "modalities", "shift".
        notify: called with lines about what is used.

    Returns:
        Measures as fractions, per class and overall, with their 95 % intervals and the confusion matrix.

    Raises:
        UserError: run and store cannot be read or do not belong together, or the split has no labelled utterance.
    """
    return evaluate_run(Path(run), None if store is None else Path(store), split, device, notify, by)


def study(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    name: str | None = None,
    *,
    grid: Mapping[str, Sequence[object]] | None = None,
    recipe: str | None = None,
    model: str | None = None,
    settings: Settings = (),
    seeds: int = 1,
    first_seed: int = 0,
    jobs: int = 1,
    device: str = "auto",
    reuse: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    notify: Callable[[str], None] = print,
) -> StudyRecord:
    """Trains variants of a recipe and measures them, like `erc-toolkit study`.

    The same call continues an interrupted study; finished runs are not repeated.

    Args:
        store: a feature store.
        out: folder of the study, created if needed: a folder for each run, study.json and results.csv.
        name: a study of the toolkit (`erc-toolkit study --list`), or path of a YAML file. Either this or `grid`.
        grid: mapping of "section.key" to the values to try, in every combination, as {"model.window": [2, 5]}.
        recipe: name of a recipe of the toolkit, or path of a YAML file; None uses the one named after the corpus.
        model: name of a model, trained with its own recipe; None uses the recipe's.
        settings: changes that all variants share, as {"train.epochs": 20} or ["train.epochs=20"].
        seeds: runs of each variant, with consecutive seeds.
        first_seed: the first of them.
        jobs: number of parallel runs.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        reuse: folders of runs and studies, from which finished runs that are exactly the same are copied.
        overwrite: replace the files of a study in a folder with other content.
        notify: called with each line of progress.

    Returns:
        The content of study.json. Its `variants` have, for each, `name`, `changes`, `selected` and `test` (for each
        measure the mean, the sample standard deviation and every value, as fractions; None without a finished run),
        and `runs`, each with `seed`, `folder`, `status`, `reason`, `result` and `measured`. A variant that is
        impossible with this store has the status "skipped", a run that failed "failed", with the reason; neither stops
        the others.

    Raises:
        UserError: there is no such study, store or recipe, a key or value is invalid, or `out` cannot be used.
    """
    if (name is None) == (grid is None):
        raise UserError("a study needs either a name or a grid")
    store, out = Path(store), Path(out)
    changes = [_text(key, value) for key, value in settings.items()] if isinstance(settings, Mapping) else settings
    if model is not None:
        changes = [f"model.name={model}", *changes]
    with FeatureStore.open(store) as opened:
        recipe = recipe or recipe_of(opened)
        if grid is not None:
            found = definition.grid(grid, "grid")
            chosen = definition.Study("grid", f"Every value of {', '.join(grid)}", found)
        else:
            chosen = definition.load_study(str(name), opened.corpus)
    inputs = [Path(path) for path in (store, recipe, name) if path is not None and Path(path).is_file()]
    with locked(out, "study", parents=True):
        check_study_folder(out, inputs, overwrite)
        numbers = range(first_seed, first_seed + seeds)
        return run_study(
            store, chosen, out, recipe, changes, numbers, jobs, device, notify, [Path(one) for one in reuse]
        )


def compare(*runs: str | os.PathLike[str]) -> comparison.Comparison:
    """Compares runs with the first of them, in settings and results on the test split; `erc-toolkit compare`.

    Args:
        runs: two or more folders that `train` wrote. A folder of `train_several`, or of a study's variant, counts as
            one run: the mean over its seeds.

    Returns:
        `runs` with their measures (as fractions) and 95 % intervals; `settings` that differ; and for each run after the
        first, `differences` with intervals and p values, and `mcnemar`.

    Raises:
        UserError: fewer than two runs, a folder has no finished run, or the runs differ in their utterances or labels.
    """
    if len(runs) < 2:
        raise UserError("at least two runs are needed")
    return comparison.compare([Path(run) for run in runs])


def _keep_inputs(out: Path, store: str | os.PathLike[str], recipe: str | None) -> None:
    """Raises a UserError if training in the folder `out` would overwrite the store or the recipe."""
    files = [Path(name) for name in (store, recipe) if name is not None and Path(name).is_file()]
    check_folder(out, FILES, files, overwrite=True)


def _text(key: str, value: object) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return f"{key}={dumped.removesuffix('...' + chr(10)).strip()}"
