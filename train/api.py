"""Training and evaluation from Python: `erc_toolkit.train`, `erc_toolkit.evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from ..toolkit.base.outputs import check_folder
from ..toolkit.store import FeatureStore
from .config import Config, idle_settings, load_config, recipe_of
from .loop import trainer
from .loop.evaluation import evaluate_run
from .loop.records import SeedsSummary, TrainResult
from .loop.run_folder import FILES
from .loop.seeds import train_seeds
from .scores.metrics import Evaluation

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


def _keep_inputs(out: Path, store: str | os.PathLike[str], recipe: str | None) -> None:
    """Raises a UserError if training in the folder `out` would overwrite the store or the recipe."""
    files = [Path(name) for name in (store, recipe) if name is not None and Path(name).is_file()]
    check_folder(out, FILES, files, overwrite=True)


def _text(key: str, value: object) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return f"{key}={dumped.removesuffix('...' + chr(10)).strip()}"
