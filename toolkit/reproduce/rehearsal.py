"""What a reproduction will take on this machine: its commands are run on a small sample, and a few steps are timed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import ToolkitError
from ..base.progress import time_in_words
from ..base.reading.plain_yaml import load_yaml
from ..manifest import MODALITIES, Manifest, load_manifest, write_manifest
from ..store import FeatureStore, StoreWriter
from ..store.reduction import reduced_name
from .paper import Paper
from .run import Command
from .sources import PICKLE, STORE, Source
from .steps import Choices, Step, write_study_files

FEW, MORE = 4, 28  # training utterances of two samples; their difference is free of what a command spends once
ADDED = 24  # utterances, at least, of the second sample's further dialogues, where media files hold whole dialogues
_SEED = 0
_COMMAND = "reproduce --dry-run"


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """What a step takes: seconds, and bytes that stay on disk; or why that is not known."""

    seconds: float = 0.0
    bytes: int = 0
    unknown: str = ""


def rehearse(
    paper: Paper,
    sources: Sequence[Source],
    choices: Choices,
    steps: Sequence[Step],
    command: Command,
    notify: Callable[[str], None],
) -> None:
    """Prints every step with its command, and an estimate of its time and disk space.

    Args:
        paper, sources, choices, steps: the plan.
        command: runs a command of the toolkit.
        notify: called with each line.
    """
    total = Taken()
    unknown = 0
    with tempfile.TemporaryDirectory(prefix="erc-toolkit-") as name:
        folder = Path(name)
        rehearsed = dataclasses.replace(choices, out=folder)
        write_study_files(paper, rehearsed)

        def add(step: Step, taken: Taken) -> None:
            nonlocal total, unknown
            notify(f"  {step.title}: {_words(taken)}")
            notify(f"    erc-toolkit {shlex.join(step.arguments)}")
            total = Taken(total.seconds + taken.seconds, total.bytes + taken.bytes)
            unknown += bool(taken.unknown)

        for step in (step for step in steps if step.corpus is None):
            add(step, _estimated_by_itself(command, step.arguments))
        for source in sources:
            notify(f"{paper.corpora[source.corpus]}: timing a sample")
            with _quiet():
                sample = _Sample(source, folder, command)
            for step in (step for step in steps if step.corpus == source.corpus):
                with _quiet():
                    taken = sample.taken(step, choices)
                add(step, taken)
    parallel = f"; --jobs {choices.jobs} is not taken into account" if choices.jobs > 1 else ""
    rest = f", and {unknown} not estimated" if unknown else ""
    notify(f"{len(steps)} steps: {_words(total)}{rest}, by samples timed on this machine now{parallel}")


def _estimated_by_itself(command: Command, arguments: Sequence[str]) -> Taken:
    """The estimate of a command that has --dry-run."""
    try:
        with _quiet():
            found = json.loads(_printed(command, (*arguments, "--dry-run", "--json")))
    except ToolkitError as error:
        return Taken(unknown=error.message)
    return Taken(found["seconds"], found["bytes"])


def _printed(command: Command, arguments: Sequence[str]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        command(tuple(arguments))
    return printed.getvalue()


class _Sample:
    """Samples of a corpus, and a store with its dialogues and widths of features."""

    def __init__(self, source: Source, folder: Path, command: Command) -> None:
        self._source, self._folder, self._command = source, folder / source.corpus, command
        self._folder.mkdir()
        self._problem, self._manifest = "", None
        self._store: Path | None = source.path if source.kind == STORE else None
        self._seconds = 0.0
        try:
            if source.kind == PICKLE:
                self._store = self._folder / "features.h5"
                began = time.perf_counter()
                command(("convert", str(source.path), "--out", str(self._store), "--corpus", source.corpus))
                self._seconds = time.perf_counter() - began
            elif source.kind != STORE:
                path = self._folder / "manifest.jsonl"
                began = time.perf_counter()
                command(("manifest", "build", source.corpus, str(source.path), "--out", str(path)))
                self._seconds, self._manifest = time.perf_counter() - began, load_manifest(path)
        except ToolkitError as error:
            self._problem = error.message

    def taken(self, step: Step, choices: Choices) -> Taken:
        """The estimate of a step."""
        if self._problem:
            return Taken(unknown=self._problem)
        try:
            match step.arguments[0]:
                case "study":
                    return self._study(step)
                case "extract":
                    return self._extraction(step, choices)
                case "finetune-text":
                    return self._tuning(step, choices)
                case _:
                    size = self._store.stat().st_size if self._store is not None else 0
                    return Taken(self._seconds, size)
        except ToolkitError as error:
            return Taken(unknown=error.message)

    def _study(self, step: Step) -> Taken:
        if self._store is None:
            return Taken(unknown="the features could not be sampled")
        arguments = list(step.arguments)
        arguments[1] = str(self._store)
        place = arguments.index("--study") + 1
        if arguments[place].endswith(".yaml"):
            arguments[place] = str(self._folder.parent / "studies" / Path(arguments[place]).name)
        return _estimated_by_itself(self._command, arguments)

    def _extraction(self, step: Step, choices: Choices) -> Taken:
        """From two samples; the rest of the stand-in store is random numbers in the corpus's dialogues."""
        assert self._manifest is not None
        options = [*step.arguments[3:]]
        options[options.index("--text-model") + 1] = choices.text_model
        if choices.visual_weights is None:  # they are trained by an earlier step; untrained ones take as long
            options[options.index("--visual-weights") + 1] = "random"
        place = options.index("--preset") + 1
        options[place], reduced = self._without_reductions(options[place])
        out = options.index("--out") + 1
        times, counts, store = [], [], self._folder
        for number, manifest in enumerate(_dialogues(self._manifest)):
            path, store = self._folder / f"sample{number}.jsonl", self._folder / f"sample{number}.h5"
            write_manifest(manifest, path, _COMMAND)
            options[out] = str(store)
            began = time.perf_counter()
            self._command(("extract", "manifest", str(path), *options))
            times.append(time.perf_counter() - began)
            counts.append(len(manifest.utterances))
        each = max(0.0, times[1] - times[0]) / max(1, counts[1] - counts[0])
        self._store = _stand_in(self._manifest, store, reduced, self._folder / "stand-in.h5")
        rest = max(0, len(self._manifest.utterances) - counts[0])
        return Taken(times[0] + each * rest, self._store.stat().st_size)

    def _without_reductions(self, preset: str) -> tuple[str, dict[str, int]]:
        """A copy of a preset for samples, which are too small for its reductions; and what these make, with widths."""
        printed = _printed(self._command, ("extract", self._source.corpus, "--show-preset", preset))
        try:
            content: Any = load_yaml(printed)
            corpora = content.get("corpora", {})
            steps = content.pop("reduce", [])
            for corpus, own in corpora.items():
                reductions = own.pop("reduce", steps)
                steps = reductions if corpus.lower() == self._source.corpus else steps
            widths = {
                reduced_name(step["feature"], step["to"], step.get("method", "anova"), step.get("name")): step["to"]
                for step in steps
            }
        except (ValueError, TypeError, LookupError, AttributeError):
            return preset, {}  # invalid, as extraction will say
        path = self._folder / "preset.yaml"
        path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        return str(path), widths

    def _tuning(self, step: Step, choices: Choices) -> Taken:
        assert self._manifest is not None
        options = [*step.arguments[2:]]
        options[options.index("--text-model") + 1] = choices.text_model
        out, epochs = options.index("--out") + 1, 30
        if "--epochs" in options:
            epochs = int(options[options.index("--epochs") + 1])
        times, size = [], 0
        for count in (FEW, MORE):
            path, tuned = self._folder / f"tuning{count}.jsonl", self._folder / f"tuned{count}"
            write_manifest(_texts(self._manifest, count), path, _COMMAND)
            options[out] = str(tuned)
            began = time.perf_counter()
            self._command(("finetune-text", str(path), *options, "--epochs", "1"))
            times.append(time.perf_counter() - began)
            size = sum(file.stat().st_size for file in tuned.rglob("*") if file.is_file())
        each = max(0.0, times[1] - times[0]) / (MORE - FEW)
        training = sum(u.split == "train" for u in self._manifest.utterances)
        return Taken(times[0] + epochs * each * training, size)


def _texts(manifest: Manifest, count: int) -> Manifest:
    """`count` random training utterances, the first two with different labels, and FEW of the others for validation."""
    rng = np.random.default_rng(_SEED)
    own = [u for u in manifest.utterances if u.split == "train" and u.label is not None and u.text.strip()]
    own = [own[i] for i in rng.permutation(len(own))]
    other = next((i for i, u in enumerate(own) if u.label != own[0].label), 0)
    own.insert(1, own.pop(other))
    kept = [dataclasses.replace(u, dialogue=u.id, position=0) for u in own[:count]]
    kept += [dataclasses.replace(u, dialogue=u.id, position=0, split="val") for u in own[count : count + FEW]]
    return dataclasses.replace(manifest, utterances=kept)


def _dialogues(manifest: Manifest) -> list[Manifest]:
    """One random dialogue; and the same with further ones that have at least ADDED utterances."""
    every = [utterances for _, utterances in manifest.dialogues()]
    order = np.random.default_rng(_SEED).permutation(len(every)).tolist()
    kept = list(every[order[0]])
    first, goal = dataclasses.replace(manifest, utterances=list(kept)), len(kept) + ADDED
    for i in order[1:]:
        kept += every[i]
        if len(kept) >= goal:
            break
    return [first, dataclasses.replace(manifest, utterances=kept)]


def _stand_in(manifest: Manifest, sample: Path, reduced: Mapping[str, int], out: Path) -> Path:
    """A store with the corpus's dialogues, and the sample's and the reduced features' widths, of random numbers."""
    with FeatureStore.open(sample) as store:
        widths = {name: store.feature(name).dim for name in store.feature_names() if name.split("/")[0] in MODALITIES}
        corpus, labels = store.corpus, store.labels
    widths |= reduced
    rng, number = np.random.default_rng(_SEED), len(manifest.utterances)
    with StoreWriter(out, corpus=corpus, labels=labels, utterances=manifest.utterances) as writer:
        for name, width in widths.items():
            modality, feature = name.split("/", 1)
            values = rng.standard_normal((number, width), dtype=np.float32)
            writer.add_feature(modality, feature, values, np.ones(number, bool), [""] * number)
    return out


@contextlib.contextmanager
def _quiet():
    """Keeps the sampled commands' messages from the plan."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _words(taken: Taken) -> str:
    if taken.unknown:
        return f"not estimated: {taken.unknown}"
    about = f"about {time_in_words(taken.seconds)}"
    return f"{about}, {taken.bytes / 1e9:.2f} GB" if taken.bytes > 5e6 else about
