"""The folder of a run: config.yaml, model.safetensors, metrics.jsonl, predictions.csv, curves.png, result.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch.overrides import TorchFunctionMode

from ...toolkit.base.checkpoint import CHECKPOINT
from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.files import is_temporary, write_atomically
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_yaml import load_yaml
from ...toolkit.base.words import counted
from ..config import RUN_SECTION, Config, check, parse_config
from ..data.features import Normaliser
from ..data.layered import mixed_layers
from ..data.provenance import parts_in
from ..models.registry import MODELS
from ..scores.predictions import PREDICTIONS
from ..settings import JOINS
from .curves import CURVES
from .records import EpochLine, ResultRecord, RunFacts

CONFIG, WEIGHTS, METRICS = "config.yaml", "model.safetensors", "metrics.jsonl"
RESULT = "result.json"
FILES = (WEIGHTS, METRICS, PREDICTIONS, CONFIG, RESULT, CURVES, CHECKPOINT)  # what training writes or deletes
_NORMALISE = "normalise"  # prefix of the normalisers' tensors beside the model's
_REDUCE = "reduce"  # prefix of fitted reductions' tensors
# Functions that fill a tensor and return it.
_FILLING = {
    *(f"{name}_" for name in "normal uniform trunc_normal bernoulli exponential ones zeros constant fill zero".split()),
    *(f"{name}_" for name in "xavier_uniform xavier_normal kaiming_uniform kaiming_normal orthogonal eye".split()),
}
_TABLES = 1 << 24  # elements of a tensor that is computed and not stored, such as a table of positions


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
        """Modality to width of its feature, with learned layer weights of all layers together."""
        return {m: f["dim"] for m, f in self.facts["features"].items()}

    @property
    def mixed(self) -> dict[str, int]:
        """Modality to the number of layers that learned weights mix, for those with such weights."""
        return mixed_layers(self.facts["features"])


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
        if path.is_dir() and any(not is_temporary(one.name) for one in path.iterdir()) and not resume:
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
        parts = [part for feature in facts["features"].values() for part in parts_in(feature)]
        texts, numbers = [*texts, *(part["name"] for part in parts)], [*numbers, *(part["dim"] for part in parts)]
        joined = {(feature.get("made") or {}).get("joined", JOINS[0]) for feature in facts["features"].values()}
        mixed_layers(facts["features"])  # raises if they contradict the widths
        lists = [facts["speakers"]["names"], facts["validation"]["held_out"]]
        valid = (
            bool(dims)
            and min(dims) > 0
            and joined <= {*JOINS}
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


def check_fit(run: Run, build: Callable[[], torch.nn.Module]) -> None:
    """Checks that the model which a run's settings describe is the one whose weights it has, without its memory.

    Settings of a foreign run may describe a model of terabytes, or of a billion layers.

    Args:
        run: the run.
        build: makes the model.

    Raises:
        UserError: the file with the weights is damaged or belongs to another model.
    """
    path = run.path / WEIGHTS
    with _readable(path), safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    for modality, dim in run.dims.items():
        shapes = [found.get(f"{_NORMALISE}.{modality}.{name}") for name in ("mean", "scale")]
        _check_normalisation(path, modality, dim, shapes)
    largest = sum(map(math.prod, found.values())) + _TABLES
    try:
        with torch.device("meta"), _Outline(f"{path}: does not fit {CONFIG}", largest, 20 * len(found) + 500):
            model = build()
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if run.config.model.name not in MODELS:  # another package's model may be unable to do without memory
            return
        raise UserError(f"{path}: does not fit {CONFIG} ({one_line(error)}); train again") from None
    _compare(path, model, {n: shape for n, shape in found.items() if n.split(".")[0] not in (_NORMALISE, _REDUCE)})


class _Outline(TorchFunctionMode):
    """Ends the construction of a model on the meta device as soon as it is larger than its file, and leaves out chance.

    Args:
        what: beginning of the message.
        largest: elements that a tensor may have.
        calls: of PyTorch's functions that there may be.
    """

    def __init__(self, what: str, largest: int, calls: int) -> None:
        super().__init__()
        self._what, self._largest, self._calls = what, largest, calls

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function, unless it draws numbers, which loads PyTorch's compiler on the meta device."""
        self._calls -= 1
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        if getattr(func, "__name__", "") in _FILLING and isinstance(tensor, torch.Tensor):
            result = tensor
        else:
            result = func(*args, **(kwargs or {}))
        if self._calls < 0 or (isinstance(result, torch.Tensor) and result.numel() > self._largest):
            raise UserError(f"{self._what} (the model of the settings is larger than the file); train again")
        return result


def load_weights(run: Run, model: torch.nn.Module) -> dict[str, Normaliser]:
    """Loads a run's weights into a model built from its settings; returns its normalisers by modality.

    Raises:
        UserError: the file is damaged, belongs to another model, or has a parameter that is not finite.
    """
    path, tensors = run.path / WEIGHTS, _tensors(run)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{_REDUCE}.")}
    normalisers = {}
    for modality, dim in run.dims.items():
        pair = [tensors.pop(f"{_NORMALISE}.{modality}.{name}", torch.empty(0)).numpy() for name in ("mean", "scale")]
        _check_normalisation(path, modality, dim, [array.shape for array in pair])
        for name, array in zip(("mean", "scale"), pair, strict=True):
            # A dimension that is constant in the training split has scale 0.
            _check_finite(path, f"{_NORMALISE}.{modality}.{name}", array, negative=name == "mean")
        normalisers[modality] = Normaliser(
            *pair, clip=run.config.data.clip if run.config.data.normalise == "zscore" else None
        )
    _compare(path, model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    for name, _ in model.named_parameters():
        _check_finite(path, name, tensors[name].float().numpy())
    model.load_state_dict(tensors)
    return normalisers


def load_reductions(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """By modality, the fitted parameters of features that were reduced from others (`Feature.reduction`).

    Raises:
        UserError: the file is damaged, or a number is not finite.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in _tensors(run).items():
        kind, _, rest = name.partition(".")
        if kind == _REDUCE:
            modality, _, what = rest.partition(".")
            _check_finite(run.path / WEIGHTS, name, tensor.numpy())
            found.setdefault(modality, {})[what] = tensor.numpy()
    return found


def _tensors(run: Run) -> dict[str, torch.Tensor]:
    path = run.path / WEIGHTS
    with _readable(path):
        return load_file(path)


def _check_normalisation(path: Path, modality: str, dim: int, shapes: Sequence[tuple[int, ...] | None]) -> None:
    """Raises a UserError if the mean and the scale of a modality do not have its dimensions."""
    if any(shape != (dim,) for shape in shapes):
        raise UserError(
            f"{path}: does not fit {CONFIG} ({modality} normalisation does not have {dim} dimensions); train again"
        )


def _compare(path: Path, model: torch.nn.Module, found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a UserError if a model's tensors do not have the names and shapes that were found in the file."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if expected != found:
        name = next(n for n in sorted(expected.keys() | found.keys()) if expected.get(n) != found.get(n))
        raise UserError(
            f"{path}: does not fit {CONFIG} ({name}: {found.get(name, 'missing')} in the file, "
            f"{expected.get(name, 'unknown')} in the model); train again"
        )


def _check_finite(path: Path, name: str, array: np.ndarray, negative: bool = True) -> None:
    """Raises a UserError if an array of the file has NaN or infinite numbers, or negative ones that are not allowed."""
    for what, bad in (("NaN or infinite", ~np.isfinite(array)), ("negative", array < 0)):
        if (what != "negative" or not negative) and (count := int(bad.sum())):
            raise UserError(f"{path}: {name} has {counted(count, f'{what} number')}; train again")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns errors of safetensors into a UserError."""
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({' '.join(str(error).split())}); train again"
        ) from None
