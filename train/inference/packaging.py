"""Packages a trained run as a portable folder: weights, settings, labels, extraction options and a model card."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from ...toolkit.base.disk import disk_faults
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.outputs import check_folder, is_stamped, staged_folder, stamped
from ...toolkit.exchange.licences import corpus_terms, extractor_terms, one_line
from ..config import OPTIMISTIC, model_in_words
from ..data.layered import LEARNED, used_layers
from ..data.provenance import FeatureFacts, options_of, parts_in
from ..data.speakers import LearnedSpeakers
from ..loop.evaluation import build_model
from ..loop.records import RunFacts, TrainResult
from ..loop.run_folder import CONFIG, RESULT, WEIGHTS, Run, read_result, read_run, write_config
from ..models.layer_mixed import weights_in_words
from ..scores.tables import percent
from .model_paths import ENCODERS, EXTRACTION, MODEL_OPTIONS, in_package

LABELS, CARD = "labels.json", "README.md"
_COMMAND = "package"
_NAMES = (CONFIG, WEIGHTS, RESULT, LABELS, EXTRACTION, CARD, ENCODERS)  # the content of a package
_MEASURES = {"weighted_f1": "weighted F1", "accuracy": "accuracy", "macro_f1": "macro F1"}


def package(
    folder: Path, out: Path, notify: Callable[[str], None], encoders: bool = True, overwrite: bool = False
) -> None:
    """Writes a package of a run.

    Args:
        folder: the run folder.
        out: the folder to create; an unchanged package in it is replaced.
        notify: called with each line of progress.
        encoders: copy encoders that are local files or folders; encoders on the Hugging Face Hub are only named.
        overwrite: replace the files of a package also in a folder with other content; further files are kept.

    Raises:
        UserError: the run is not finished, its features cannot be reproduced, an encoder is missing, `out` has other
            content, or cannot be written.
    """
    run, result = read_run(folder), read_result(folder)
    if result is None:
        raise UserError(f"{folder}: has no {RESULT}, so its results are unknown; let the training finish first")
    options = options_of(folder, run.facts["features"])
    inputs = [folder / name for name in (CONFIG, WEIGHTS, RESULT, ENCODERS)]
    models = [one.get(name) for one in options.values() for name in MODEL_OPTIONS]
    inputs += [Path(value) for value in models if isinstance(value, str)]
    check_folder(out, _NAMES, inputs, earlier=_is_package, overwrite=overwrite)
    _check_encoders(folder, options)
    with disk_faults(out), staged_folder(out, _NAMES) as work:
        moved = _copy_encoders(options, work, folder, notify) if encoders else {}
        facts = _without_paths(run.facts, moved)
        write_config(work, run.config, facts)
        shutil.copyfile(folder / WEIGHTS, work / WEIGHTS)
        write_atomically(work / LABELS, (json.dumps(run.facts["labels"], ensure_ascii=False, indent=1) + "\n").encode())
        recipe = {m: facts["features"][m]["made"] for m in facts["features"]}
        write_atomically(work / EXTRACTION, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode())
        write_atomically(
            work / RESULT,
            json.dumps({"result": _without_run(result["result"])}, ensure_ascii=False, indent=1).encode(),
        )
        write_atomically(work / CARD, stamped(_card(run, facts, result["result"], moved), _COMMAND).encode())


def _is_package(folder: Path) -> bool:
    """Whether a folder is a package whose card is unchanged."""
    return is_stamped(folder / CARD, _COMMAND)


def _file_options(options: dict[str, object]) -> list[str]:
    """Names of options that may name a file: the toolkit's, and those of plug-in extractors ("NAME.key")."""
    others = {name: Path(value) for name, value in options.items() if "." in name and isinstance(value, str)}
    return [
        *MODEL_OPTIONS,
        *(
            name
            for name, path in others.items()
            if (path.is_absolute() and path.exists()) or (path.parts[:1] == (ENCODERS,) and ".." not in path.parts)
        ),
    ]


def _check_encoders(folder: Path, extraction: dict[str, dict[str, object]]) -> None:
    for modality, options in extraction.items():
        for name in _file_options(options):
            value = options.get(name)
            in_package(folder, name, value)
            if isinstance(value, str) and Path(value).is_absolute() and not Path(value).exists():
                raise UserError(
                    f"{value}: the {modality} features of {folder} were extracted with it, but it no longer exists; "
                    "restore it, or omit the encoders with --no-encoders"
                )


def _copy_encoders(
    extraction: dict[str, dict[str, object]], out: Path, folder: Path, notify: Callable[[str], None]
) -> dict[str, str]:
    """Copies local encoders into the package; returns the new path of each."""
    moved: dict[str, str] = {}
    for options in extraction.values():
        for name in _file_options(options):
            value = options.get(name)
            if not isinstance(value, str) or value in moved:
                continue
            source = in_package(folder, name, value) or Path(value)
            if not source.is_absolute():
                continue  # on the hub, or a built-in name
            target = f"{ENCODERS}/{name}/{source.name}"  # keeps its name, which is part of the feature name
            (out / target).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, out / target)
            else:
                shutil.copyfile(source, out / target)
            moved[value] = target
            notify(f"{value}: copied to {target}")
    return moved


def _without_paths(facts: RunFacts, moved: dict[str, str]) -> RunFacts:
    """The run's facts without paths of the machine it was trained on."""
    facts = copy.deepcopy(facts)
    facts["store"]["path"] = Path(facts["store"]["path"]).name
    for feature in _parts(facts).values():
        options = feature["made"].get("options", {})
        for name, value in options.items():
            if isinstance(value, str) and value in moved:
                options[name] = moved[value]
            elif isinstance(value, str) and Path(value).is_absolute():
                options[name] = Path(value).name
    return facts


def _parts(facts: RunFacts) -> dict[str, FeatureFacts]:
    """The features of the store that the run uses, by modality, with a number where several are joined."""
    found = {}
    for modality, feature in facts["features"].items():
        parts = parts_in(feature)
        found |= {f"{modality} {i}" if len(parts) > 1 else modality: part for i, part in enumerate(parts, 1)}
    return found


def _without_run(result: TrainResult) -> dict[str, object]:
    return {k: v for k, v in result.items() if k != "run"}


def _card(run: Run, facts: RunFacts, result: TrainResult, moved: dict[str, str]) -> str:
    """The model card: Markdown with the hub's YAML front matter."""
    corpus, test, protocol = facts["store"]["corpus"], result["test"], facts["protocol"]
    name = f"{run.config.model.name} on {corpus}"
    split = "test" if test is not None else result["selected"]["split"]
    measures = test if test is not None else result["selected"]
    front: dict[str, object] = {
        "library_name": "erc-toolkit",
        "license": "other",
        "license_name": "see-below",
        "tags": ["emotion-recognition-in-conversation", "multimodal", corpus.lower()],
        "metrics": ["f1", "accuracy"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "text-classification", "name": "emotion recognition in conversation"},
                        "dataset": {"name": corpus, "type": corpus.lower(), "split": split},
                        "metrics": [
                            {
                                "type": "f1" if "f1" in key else key,
                                "name": f"{label} ({split}, epoch selected by: {protocol})",
                                "value": round(100 * measures[key], 2),
                            }
                            for key, label in _MEASURES.items()
                            if key in measures
                        ],
                    }
                ],
            }
        ],
    }
    rows = [f"| {label} | {percent(measures[key])} |" for key, label in _MEASURES.items() if key in measures]
    if test is not None:
        rows.append(
            f"| weighted F1 when always predicting {test['majority_class']!r} "
            f"| {percent(test['majority_weighted_f1'])} |"
        )
    optimistic = (
        ["", "Optimistic: the epoch was selected on the test split itself, as in published scripts."]
        if protocol == OPTIMISTIC
        else []
    )
    features = [
        f"| {m} | `{f['name']}` | {f['dim']} | {one_line(f['made'].get('model', ''))} |"
        for m, f in _parts(facts).items()
    ]
    licences = [f"- {text}" for text in _licences(facts)]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {one_line(name)}",
        "",
        f"Predicts the emotion of each turn of a conversation: {one_line(', '.join(facts['labels']))}. "
        f"Trained with erc-toolkit {facts['toolkit_version']} ({model_in_words(run.config.model)}, "
        f"{facts['parameters']:,} parameters, seed {facts['seed']}).",
        "",
        "```console",
        "erc-toolkit predict THIS_FOLDER clip.mp4 --transcript clip.srt",
        "```",
        "",
        "```python",
        "from erc_toolkit import Predictor",
        "",
        'predictor = Predictor("THIS_FOLDER")',
        'turns = predictor.predict("clip.mp4", "clip.srt")',
        "```",
        "",
        "## Results",
        "",
        f"On the {split} split of {one_line(corpus)}, in percent; single seed; epoch selected by: {protocol}.",
        "",
        "| | |",
        "|---|---:|",
        *rows,
        *optimistic,
        "",
        "## What it expects",
        "",
        f"- Turns with {_list([*facts['features']])}, in the order of the conversation; what a turn lacks is absent.",
        f"- {one_line(_speakers(run).describe())}",
        f"- Labels, in index order: {one_line(', '.join(facts['labels']))}.",
        "",
        "## Features",
        "",
        "| modality | name | dimensions | extracted with |",
        "|---|---|---:|---|",
        *features,
        "",
        *_layers(facts, result),
        f"`{EXTRACTION}` describes how they are extracted, with the checksums of the weights; features of another "
        "model are rejected." + (f" `{ENCODERS}/` contains the encoders." if moved else ""),
        "",
        "## Limits",
        "",
        "The emotions are the judgements of annotators on one corpus: acted or scripted speech, few speakers, "
        "one language. Do not use the model to judge people.",
        "",
        "## Licences",
        "",
        *licences,
        "",
        "Before publishing, choose a `license` above that is compatible with all of these.",
        "",
    ]
    return "\n".join(lines)


def _layers(facts: RunFacts, result: TrainResult) -> list[str]:
    """What the model uses of features with one vector per layer; nothing if it uses none."""
    lines = weights_in_words(result.get("layer_weights") or {})
    for modality, feature in facts["features"].items():
        if (used := used_layers(feature)) is not None and used.layers != LEARNED:
            lines.append(f"{modality} layers: {used.layers} of {used.count}, from 0")
    return [*(f"- {one_line(line)}" for line in lines), ""] if lines else []


def _speakers(run: Run) -> LearnedSpeakers:
    """What the model has learned about speakers, which its settings and modalities decide."""
    facts = run.facts
    counts = np.array([facts["train_label_counts"][label] for label in facts["labels"]])
    model = build_model(run.config, run.dims, facts["speakers"]["slots"], counts, run.mixed)
    return LearnedSpeakers.of(model.speaker_use, facts["speakers"])


def _list(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _licences(facts: RunFacts) -> list[str]:
    corpus = facts["store"]["corpus"]
    lines = [f"Trained on {one_line(corpus)}: {corpus_terms(corpus) or 'its terms are unknown.'}"]
    for modality, feature in _parts(facts).items():
        unknown = f"the licence of {one_line(feature['made'].get('model', 'its model'))} applies."
        lines.append(f"{modality}: {extractor_terms(feature['made']) or unknown}")
    return lines
