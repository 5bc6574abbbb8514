"""The plan of a reproduction: every command from the given corpora to the studies, as a user would type it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from ..base.errors import UserError
from ..base.files import write_atomically
from .paper import Budget, Paper
from .sources import PICKLE, RAW, STORE, Source

STUDIES = "studies"  # folder of the study files that the budget has changed


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user chose for the whole reproduction.

    Attributes:
        out: the folder of everything.
        budget: how much is trained.
        seeds: runs of each variant.
        text_model: text encoder, fine-tuned on each corpus if `finetune`.
        faces: labelled faces for `train-face`, or None.
        visual_weights: weights of the face network in their place, or None.
        face_model: model file of the face detector, or None for the hub's.
        preset: name or file of the features' preset.
        jobs: parallel runs of a study.
        device: for every command.
        engine, shared: for the commands that compute on clusters, extraction and studies.
    """

    out: Path
    budget: Budget
    seeds: int
    text_model: str
    finetune: bool
    faces: Path | None
    visual_weights: str | None
    face_model: Path | None
    preset: str
    jobs: int
    device: str
    engine: str = "local"
    shared: Path | None = None

    @property
    def on(self) -> tuple[str, ...]:
        """The arguments that name the engine; none for this machine."""
        shared = () if self.shared is None else ("--shared", str(self.shared))
        return () if self.engine == "local" else ("--engine", self.engine, *shared)


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        title: for display.
        corpus: name of the corpus it belongs to; None for all.
        arguments: after `erc-toolkit`.
        out: what it writes.
        inputs: files whose content decides whether a finished step is repeated.
        study: name of the study it runs, or empty.
    """

    title: str
    corpus: str | None
    arguments: tuple[str, ...]
    out: Path
    inputs: tuple[Path, ...] = ()
    study: str = ""

    @property
    def settles_itself(self) -> bool:
        """Whether the command knows what is left to do, so that it may always be given again."""
        return self.arguments[0] in ("extract", "study", "manifest")


def store_of(source: Source, out: Path) -> Path:
    """The corpus's feature store: what the user gave, or what the steps write."""
    return source.path if source.kind == STORE else out / source.corpus / "features.h5"


def make_steps(paper: Paper, sources: Sequence[Source], choices: Choices) -> list[Step]:
    """The steps for the given corpora, in order.

    Raises:
        UserError: a raw corpus needs a face network and none is given.
    """
    raw = [source for source in sources if source.kind == RAW]
    steps = [*_face_network(raw, choices)]
    for source in sources:
        steps += _features(paper, source, choices)
    # Corpus after corpus within a study: the first tables of both are there early.
    for study in (name for name in paper.studies if name not in choices.budget.leave_out):
        steps += [_study(paper, source, study, choices) for source in sources]
    return steps


def write_study_files(paper: Paper, choices: Choices) -> None:
    """Writes OUT/studies/NAME.yaml for the studies that the budget changes."""
    shipped = resources.files("erc_toolkit.manifests") / "studies"
    for name in paper.studies:
        text = study_file(paper, name, choices.budget, (shipped / f"{name}.yaml").read_text(encoding="utf-8"))
        if text is not None:
            (choices.out / STUDIES).mkdir(exist_ok=True)
            write_atomically(choices.out / STUDIES / f"{name}.yaml", text.encode())


def study_file(paper: Paper, study: str, budget: Budget, shipped: str) -> str | None:
    """The content of a study's file with what the budget replaces; None if it replaces nothing.

    Args:
        paper, study, budget: which one.
        shipped: the study file of the toolkit.
    """
    replaced = paper.studies[study].get(budget.name)
    if not replaced:
        return None
    content = yaml.safe_load(shipped)
    changed = {"grid", "runs"} & set(replaced)
    own = [content, *content.get("corpora", {}).values()]  # what differs on a corpus would come before the budget
    for part in own:
        for key in ("grid", "runs") if changed else ():
            part.pop(key, None)
        if "settings" in replaced and "settings" in part:
            part["settings"] = {**part["settings"], **replaced["settings"]}
    settings = {**content.get("settings", {}), **replaced.get("settings", {})}
    content |= {key: value for key, value in replaced.items() if key != "settings"}
    if settings:
        content["settings"] = settings
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _face_network(raw: Sequence[Source], choices: Choices) -> list[Step]:
    if not raw or choices.visual_weights is not None:
        return []
    if choices.faces is None:
        raise UserError(
            f"--{raw[0].corpus} {raw[0].path}: its faces need a network, whose weights nobody has published; train it "
            "here with --faces FERPLUS (a folder of labelled faces), or give the folder that `train-face` wrote with "
            "--visual-weights"
        )
    out = choices.out / "face-network"
    arguments = ("train-face", str(choices.faces), "--out", str(out), "--device", choices.device)
    return [Step("face network", None, (*arguments, *choices.budget.arguments("train-face")), out)]


def _features(paper: Paper, source: Source, choices: Choices) -> list[Step]:
    name, folder, store = paper.corpora[source.corpus], choices.out / source.corpus, store_of(source, choices.out)
    if source.kind == STORE:
        return []
    if source.kind == PICKLE:
        arguments = ("convert", str(source.path), "--out", str(store), "--corpus", source.corpus)
        return [Step(f"{name}: conversion", source.corpus, arguments, store, (source.path,))]
    steps, text = [], choices.text_model
    if choices.finetune:
        manifest, tuned = folder / "manifest.jsonl", folder / "text-encoder"
        arguments = ("manifest", "build", source.corpus, str(source.path), "--out", str(manifest))
        steps.append(Step(f"{name}: manifest", source.corpus, arguments, manifest))
        arguments = ("finetune-text", str(manifest), "--text-model", text, "--out", str(tuned))
        arguments += ("--device", choices.device, *choices.budget.arguments("finetune-text"))
        steps.append(Step(f"{name}: fine-tuning of the text encoder", source.corpus, arguments, tuned, (manifest,)))
        text = str(tuned)
    weights = choices.visual_weights or str(choices.out / "face-network")
    arguments = ("extract", source.corpus, str(source.path), "--preset", choices.preset, "--out", str(store))
    arguments += ("--text-model", text, "--visual-weights", weights, "--device", choices.device)
    if choices.face_model is not None:
        arguments += ("--face-model", str(choices.face_model))
    arguments += choices.on
    return [*steps, Step(f"{name}: features", source.corpus, arguments, store)]


def _study(paper: Paper, source: Source, study: str, choices: Choices) -> Step:
    out, budget = choices.out / source.corpus / study, choices.budget
    changed = bool(paper.studies[study].get(budget.name))
    file = str(choices.out / STUDIES / f"{study}.yaml") if changed else study
    arguments = ["study", str(store_of(source, choices.out)), "--study", file, "--out", str(out)]
    arguments += ["--seeds", str(choices.seeds), "--jobs", str(choices.jobs), "--device", choices.device]
    arguments += ["--recipe", budget.recipe or source.corpus, "--reuse", str(choices.out / source.corpus)]
    for key, value in budget.settings.items():
        arguments += ["--set", f"{key}={json.dumps(value)}"]
    arguments += choices.on
    return Step(f"{paper.corpora[source.corpus]}: study {study}", source.corpus, tuple(arguments), out, study=study)
