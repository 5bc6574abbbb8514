"""The folder of a run: config.yaml, model.safetensors, metrics.jsonl, predictions.csv, curves.png, result.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ...toolkit.base.checkpoint import CHECKPOINT
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_yaml import load_yaml
from ...toolkit.base.words import counted
from ..config import RUN_SECTION, Config, check, parse_config
from ..data.features import Normaliser
from ..scores.predictions import PREDICTIONS
from .curves import CURVES
from .records import EpochLine, ResultRecord, RunFacts

CONFIG, WEIGHTS, METRICS = "config.yaml", "model.safetensors", "metrics.jsonl"
RESULT = "result.json"
FILES = (WEIGHTS, METRICS, PREDICTIONS, CONFIG, RESULT, CURVES, CHECKPOINT)  # what training writes or deletes
_NORMALISE = "normalise"  # prefix of the normalisers' tensors beside the model's
_REDUCE = "reduce"  # prefix of fitted reductions' tensors


@dataclass(slots=True)
class Run:
    """A finished run as its config.yaml describes it.

    Attributes:
        path: its folder.
        config: its settings.
        facts: what was used, as collected by `erc_toolkit.train.loop.plan`.
    """

    path: Path
    config: Config
    facts: RunFacts

    @property
    def dims(self) -> dict[str, int]:
        """Modality to width of its feature."""
        return {m: f["dim"] for m, f in self.facts["features"].items()}


def prepare_folder(path: Path, overwrite: bool, resume: bool = False) -> None:
    """Creates the folder of a new run; `overwrite` deletes the files of an earlier run in it, and nothing else.

    `resume` keeps everything that an interrupted run left.

    Raises:
        UserError: the folder is not empty and `overwrite` is not given, or cannot be made; or there is something else
            than a run to resume.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; --out must name a folder")
        if path.is_dir() and any(path.iterdir()) and not resume:
            if not overwrite:
                raise UserError(
                    f"{path}: is not empty; choose another --out, continue with --resume, "
                    "or replace the run with --overwrite"
                )
            for name in FILES:
                (path / name).unlink(missing_ok=True)
        elif resume and any((path / name).exists() for name in FILES) and not _is_run(path):
            raise UserError(f"{path}: has files of other programs where a run's would be; choose another --out")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be used as the run's folder ({error.strerror})") from None


def _is_run(path: Path) -> bool:
    """Whether a folder has the config.yaml of a run, finished or not."""
    try:
        return isinstance(load_yaml((path / CONFIG).read_text(encoding="utf-8"))[RUN_SECTION], dict)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def write_config(path: Path, config: Config, facts: RunFacts) -> None:
    """Writes config.yaml: the resolved settings and, under `run`, the facts. It is itself a recipe."""
    text = yaml.safe_dump({**config.as_dict(), RUN_SECTION: dict(facts)}, sort_keys=False, allow_unicode=True)
    write_atomically(path / CONFIG, text.encode("utf-8"))


def append_metrics(path: Path, line: EpochLine) -> None:
    """Adds one line to metrics.jsonl."""
    with open(path / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def keep_metrics(path: Path, epochs: int) -> list[EpochLine]:
    """Truncates metrics.jsonl after the given number of epochs and returns their lines.

    Raises:
        UserError: the file has fewer epochs.
    """
    file = path / METRICS
    lines = []
    if epochs:
        try:
            lines = [parse_json(line) for line in file.read_text(encoding="utf-8").splitlines()[:epochs]]
        except (OSError, ValueError):
            lines = []
        if len(lines) != epochs:
            raise UserError(
                f"{file}: does not contain {counted(epochs, 'epoch')}, as many as the checkpoint next to it; "
                "start again with --overwrite"
            )
    write_atomically(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return lines


def write_result(path: Path, result: ResultRecord) -> None:
    """Writes result.json, the last file of a run: its presence means that the run has finished."""
    write_atomically(path / RESULT, json.dumps(result, ensure_ascii=False, indent=1).encode())


def read_result(path: Path) -> ResultRecord | None:
    """What `write_result` wrote, or None if the run has not finished."""
    try:
        return parse_json((path / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_weights(
    path: Path,
    model: torch.nn.Module,
    normalisers: Mapping[str, Normaliser],
    reductions: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Writes model.safetensors: the model's state, the normalisers, and `Feature.reduction` by modality."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for modality, normaliser in normalisers.items():
        tensors[f"{_NORMALISE}.{modality}.mean"] = torch.from_numpy(normaliser.mean)
        tensors[f"{_NORMALISE}.{modality}.scale"] = torch.from_numpy(normaliser.scale)
    for modality, numbers in reductions.items():
        for name, array in numbers.items():
            tensors[f"{_REDUCE}.{modality}.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
    write_atomically(path / WEIGHTS, save(tensors))


def read_run(path: Path) -> Run:
    """Reads a run's config.yaml.

    Raises:
        UserError: the folder has no run, the run did not finish, or its config.yaml is damaged.
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"{path}: has no {CONFIG}, so it is not a run of `erc-toolkit train`")
    if not (path / WEIGHTS).is_file():
        raise UserError(f"{path}: its training did not finish (no {WEIGHTS}); train again with --overwrite")
    where = str(path / CONFIG)
    try:
        content = load_yaml((path / CONFIG).read_text(encoding="utf-8"))
        facts = content[RUN_SECTION]
        dims = [feature["dim"] for feature in facts["features"].values()]
        counts = [facts["train_label_counts"][label] for label in facts["labels"]]
        numbers = [*dims, *counts, facts["speakers"]["slots"], facts["seed"]]
        texts = [facts["store"]["path"], facts["store"]["content_sha256"], facts["protocol"]]
        texts += [feature["name"] for feature in facts["features"].values()]
        lists = [facts["speakers"]["names"], facts["validation"]["held_out"]]
        valid = (
            bool(dims)
            and min(dims) > 0
            and all(type(n) is int and n >= 0 for n in numbers)
            and all(type(t) is str for t in texts)
            and all(type(x) is list for x in lists)
        )
    except (
        OSError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ):
        valid = False
    if not valid:
        raise UserError(f"{where}: damaged, or not written by `erc-toolkit train`; train again with --overwrite")
    config = parse_config(content, where)
    check(config, where)
    return Run(path, config, facts)


def load_weights(run: Run, model: torch.nn.Module) -> dict[str, Normaliser]:
    """Loads a run's weights into a model built from its settings; returns its normalisers by modality.

    Raises:
        UserError: the file is damaged or belongs to another model.
    """
    path, tensors = run.path / WEIGHTS, _tensors(run)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{_REDUCE}.")}
    normalisers = {}
    for modality, dim in run.dims.items():
        pair = [tensors.pop(f"{_NORMALISE}.{modality}.{name}", torch.empty(0)).numpy() for name in ("mean", "scale")]
        if any(array.shape != (dim,) for array in pair):
            raise UserError(
                f"{path}: does not fit {CONFIG} ({modality} normalisation does not have {dim} dimensions); train again"
            )
        normalisers[modality] = Normaliser(
            *pair, clip=run.config.data.clip if run.config.data.normalise == "zscore" else None
        )
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        name = next(n for n in sorted(expected.keys() | found.keys()) if expected.get(n) != found.get(n))
        raise UserError(
            f"{path}: does not fit {CONFIG} ({name}: {found.get(name, 'missing')} in the file, "
            f"{expected.get(name, 'unknown')} in the model); train again"
        )
    model.load_state_dict(tensors)
    return normalisers


def load_reductions(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """By modality, the fitted parameters of features that were reduced from others (`Feature.reduction`).

    Raises:
        UserError: the file is damaged.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in _tensors(run).items():
        kind, _, rest = name.partition(".")
        if kind == _REDUCE:
            modality, _, what = rest.partition(".")
            found.setdefault(modality, {})[what] = tensor.numpy()
    return found


def _tensors(run: Run) -> dict[str, torch.Tensor]:
    path = run.path / WEIGHTS
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({' '.join(str(error).split())}); train again"
        ) from None
