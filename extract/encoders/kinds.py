"""The kinds of features that `--feature KIND[:MODEL][@KEY=VALUE,…]` names, and how such a line becomes options.

A feature is a copy of the run's options for one modality, with those of the line in place: what is recorded for
`predict` is the same whether a feature was asked for by a line or by the options of the command.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_yaml import load_yaml
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import did_you_mean
from ...toolkit.manifest import MODALITIES
from .option import option_specs
from .registry import extractors, find_extractor
from .selection import (
    DENSENETS,
    FACE_NETWORK,
    IMAGE_MODEL,
    OPENSMILE,
    PROSODY,
    SPEECH_MODEL,
    TEXT_MODEL,
    VIDEO_MODEL,
    Options,
    built_in_extractor,
)

_OPENSMILE_LICENCE = "free for research and private use; commercial use needs a licence from audEERING"
_MODELS_LICENCE = "the model's own, on its page of the hub"
_KEYS = re.compile(r"@(?=\s*\w+\s*=)")  # where the keys of a line begin


@dataclass(frozen=True)
class Kind:
    """A kind of features.

    Attributes:
        name: as it is written.
        modality: what it is a feature of.
        extractor: registered name of the extractor that makes it.
        model: the option that the MODEL of a line sets; empty if it has none.
        keys: the KEYs of a line, each with the option that it sets.
        fixed: options that the kind sets by itself.
        example: a MODEL.
        about: what it is, in a few words.
        needs: what must be there.
        extra: the extra of the package that it needs; empty for none.
        licence: of what it computes with.
    """

    name: str
    modality: str
    extractor: str
    model: str
    keys: Mapping[str, str]
    example: str
    about: str
    needs: str
    licence: str
    fixed: Mapping[str, object] = field(default_factory=dict)
    extra: str = ""


_SHARED = {"name": "name", "precision": "precision"}
_FACES = "a face detector, for faces"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "text",
            "text",
            TEXT_MODEL,
            "text_model",
            {
                "pooling": "pooling",
                "context": "text_context",
                "prompt": "text_prompt",
                "describe": "describe",
                "output": "output",
                "device_map": "device_map",
                **_SHARED,
            },
            "roberta-large",
            "any text encoder or decoder of transformers",
            "a model of the hub, or a folder",
            _MODELS_LICENCE,
            extra="llm for device_map",
        ),
        Kind(
            "opensmile",
            "audio",
            OPENSMILE,
            "audio_set",
            {"name": "name"},
            "ComParE_2016",
            "functionals of an openSMILE set",
            "nothing",
            _OPENSMILE_LICENCE,
            {"audio_model": None},
        ),
        Kind(
            "prosody",
            "audio",
            PROSODY,
            "",
            {"name": "name"},
            "",
            "loudness, pitch and their variation, as text models are told",
            "nothing",
            _OPENSMILE_LICENCE,
            {"audio_set": PROSODY, "audio_model": None},
        ),
        Kind(
            "speech",
            "audio",
            SPEECH_MODEL,
            "audio_model",
            {"layers": "layers", "pooling": "audio_pooling", "output": "output", **_SHARED},
            "microsoft/wavlm-large",
            "wav2vec2, HuBERT, WavLM, data2vec-audio, Whisper's encoder",
            "a model of the hub, or a folder",
            _MODELS_LICENCE,
        ),
        Kind(
            "face",
            "visual",
            FACE_NETWORK,
            "visual_model",
            {"weights": "visual_weights", "normalisation": "normalisation", "runtime": "runtime", **_SHARED},
            "densenet121",
            "a DenseNet on the speaker's face",
            "a face detector",
            "torchvision: BSD-3-Clause, its weights also the terms of ImageNet; a file's: its own",
            extra="openvino for runtime",
        ),
        Kind(
            "image",
            "visual",
            IMAGE_MODEL,
            "visual_model",
            {"crop": "crop", "normalisation": "normalisation", **_SHARED},
            "openai/clip-vit-large-patch14",
            "any image encoder of transformers, on faces or whole frames",
            f"a model of the hub, or a folder; {_FACES}",
            _MODELS_LICENCE,
            {"visual_kind": "image"},
        ),
        Kind(
            "video",
            "visual",
            VIDEO_MODEL,
            "visual_model",
            dict(_SHARED),
            "MCG-NJU/videomae-base",
            "VideoMAE, TimeSformer or ViViT, on clips of the speaker's face",
            "a model of the hub, or a folder; a face detector",
            _MODELS_LICENCE,
            {"visual_kind": "video"},
        ),
    )
}


@dataclass(frozen=True)
class FeatureRequest:
    """One feature of a run.

    Attributes:
        line: as the user wrote it; the modality where it was asked for by the options of the command.
        modality: "text", "audio" or "visual".
        options: of the run, for this modality alone, with the feature's own.
        named: whether it was asked for by a line.
        implicit: whether nobody asked for it, but another feature needs it.
    """

    line: str
    modality: str
    options: Options
    named: bool = True
    implicit: bool = False


def requests_of(options: Options) -> list[FeatureRequest]:
    """The features that the options of a run ask for, in the order text, audio, visual of the kinds or as written.

    Raises:
        UserError: a line or a file that cannot be understood, or a modality asked for by two extractors.
    """
    lines: list[tuple[str, object]] = [(f"--feature {line}", line) for line in options.features]
    if options.feature_set is not None:
        lines += _read_set(options.feature_set)
    plain = dataclasses.replace(options, features=(), feature_set=None)
    if lines and (options.extractors or options.extractor_options or options.modalities != MODALITIES):
        raise UserError("features say by themselves what is extracted; leave modalities and extractors out")
    if lines:
        found = [parse_feature(line, plain, where) for where, line in lines]
    else:
        found = [
            FeatureRequest(m, m, dataclasses.replace(plain, modalities=(m,), **_own_extractor(plain, m)), False)
            for m in plain.modalities
        ]
    described = any(one.modality == "text" and one.options.describe == PROSODY for one in found)
    if described and not any(_is_prosody(one) for one in found):
        # What texts are described by is kept, so that a later run need not listen to them again.
        found.append(dataclasses.replace(parse_feature(PROSODY, plain), implicit=True))
    return found


def _is_prosody(request: FeatureRequest) -> bool:
    options = request.options
    own = options.extractors or (built_in_extractor(options, request.modality),)
    return request.modality == "audio" and own == (PROSODY,) and options.name is None


def parse_feature(line: object, options: Options, where: str = "") -> FeatureRequest:
    """A feature from a line `KIND[:MODEL][@KEY=VALUE,…]`, or from a mapping with kind, model and the keys.

    Args:
        line: of the command line or of a file.
        options: of the run.
        where: where the line is from, for messages.

    Raises:
        UserError: it cannot be understood; the message names the place and what would be right.
    """
    where = where or f"--feature {line}"
    if isinstance(line, str):
        kind, model, given = _split(line, where)
    elif isinstance(line, Mapping) and isinstance(line.get("kind"), str):
        rest = {str(key): value for key, value in line.items() if key not in ("kind", "model")}
        kind, model, given = line["kind"], line.get("model"), rest
    else:
        raise UserError(f"{where}: write KIND:MODEL@KEY=VALUE, or a mapping with kind, model and keys")
    if kind not in KINDS:
        return _of_package(kind, model, given, options, where)
    found, specs = KINDS[kind], option_specs(Options)
    chosen: dict[str, Any] = {"modalities": (found.modality,), "extractors": (), "extractor_options": {}}
    if model is not None and not found.model:
        raise UserError(f"{where}: {kind} has no model; leave {model!r} out")
    if model is None and kind in ("speech", "image", "video"):
        raise UserError(f"{where}: name the model, e.g. {kind}:{found.example}")
    if model is None and found.model:
        model = getattr(options, found.model)
    values = {found.model: model} if found.model else {}
    for key, value in given.items():
        if key not in found.keys:
            known = ", ".join(found.keys)
            meant = did_you_mean(key, list(found.keys), listed=0)
            raise UserError(f"{where}: {kind} has no {key!r}{meant}; it has {known}")
        values[found.keys[key]] = value
    names = {option: key for key, option in found.keys.items()} | ({found.model: "model"} if found.model else {})
    for name, value in values.items():
        try:
            chosen[name] = specs[name].parsed(_typed(value, specs[name].kind))
        except ValueError as error:
            raise UserError(f"{where}: {names[name]}: {error}") from None
    if not model and found.model:
        raise UserError(f"{where}: the model is empty; leave it out, or name one")
    made = dataclasses.replace(options, **{**chosen, **found.fixed})
    own = built_in_extractor(made, found.modality)
    if found.modality == "visual" and model in DENSENETS:
        own = FACE_NETWORK
    if own != found.extractor:
        right = next(one for one in KINDS.values() if one.extractor == own)
        instead = f"{right.name}:{model}" if right.model else right.name
        raise UserError(f"{where}: {model} is no model of {kind}; write {instead}")
    _check_shared(made, given, where)
    return FeatureRequest(_shown(where, line), found.modality, made)


def _check_shared(made: Options, given: Mapping[str, object], where: str) -> None:
    """Raises a UserError for a precision that only a whole run can have, or a name that no feature can have."""
    if "precision" in given and made.precision in ("tf32", "auto"):
        raise UserError(f"{where}: {made.precision} is for the whole run; give it with --precision")
    if made.name is not None and not (made.name.isprintable() and made.name.strip("./ ")):
        raise UserError(f"{where}: name: {made.name!r} is no name of a feature; use letters and digits")


def _split(line: str, where: str) -> tuple[str, str | None, dict[str, object]]:
    """Kind, model and keys. A model may contain "@" and ":", such as a path does."""
    head, tail = line, ""
    if places := list(_KEYS.finditer(line)):
        # The last one, since folders of experiments are called "lr=1@seed=2" more often than values contain "@KEY=".
        head, tail = line[: places[-1].start()], line[places[-1].end() :]
    kind, colon, model = head.partition(":")
    keys: dict[str, object] = {}
    last = ""
    for part in tail.split(",") if tail else []:
        key, equals, value = part.partition("=")
        if equals:
            if key.strip() in keys:
                raise UserError(f"{where}: {key.strip()} is there twice")
            last = key.strip()
            keys[last] = value.strip()
        else:  # a value with a comma, such as a mean and a deviation
            keys[last] = f"{keys[last]},{part.strip()}"
    if colon and not model:
        raise UserError(f"{where}: no model after the colon")
    return kind.strip(), model or None, keys


def _typed(value: object, kind: type) -> object:
    """A value of a YAML file as the command line would have it."""
    return str(value) if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _of_package(kind: str, model: object, given: Mapping[str, object], options: Options, where: str) -> FeatureRequest:
    """A feature of another package's extractor."""
    from .registry import EXTRACTORS

    others = [name for name in extractors() if name not in EXTRACTORS]
    if kind not in others:
        known = [*KINDS, *others]
        meant = did_you_mean(kind, known, listed=0)
        raise UserError(f"{where}: no kind {kind!r}{meant}; the kinds are {', '.join(known)}")
    if model is not None:
        raise UserError(f"{where}: {kind} takes no model after a colon; give its own options after @")
    registered = find_extractor(kind)
    modality = registered.cls.modality
    own = {
        key: value for key, value in given.items() if key not in _SHARED or key in option_specs(registered.cls.Options)
    }
    shared = {key: value for key, value in given.items() if key not in own}
    chosen: dict[str, Any] = {}
    for name, value in shared.items():
        try:
            chosen[name] = option_specs(Options)[name].parsed(_typed(value, str))
        except ValueError as error:
            raise UserError(f"{where}: {name}: {error}") from None
    made = dataclasses.replace(
        options,
        modalities=(modality,),
        extractors=(kind,),
        extractor_options={f"{kind}.{key}": value for key, value in own.items()},
        **chosen,
    )
    _check_shared(made, shared, where)
    return FeatureRequest(where.removeprefix("--feature "), modality, made)


def _own_extractor(options: Options, modality: str) -> dict[str, Any]:
    """Of the extractors that replace built-in ones, the modality's."""
    mine = [name for name in options.extractors if find_extractor(name).cls.modality == modality]
    given = {key: value for key, value in options.extractor_options.items() if key.rpartition(".")[0] in mine}
    return {"extractors": tuple(mine), "extractor_options": given}


def _shown(where: str, line: object) -> str:
    return line if isinstance(line, str) else where


def _read_set(path: Path) -> Iterable[tuple[str, object]]:
    """The features of a YAML file, each with its place."""
    text, _ = read_text(path, "feature set")
    try:
        content: Any = load_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    lines = content.get("features") if isinstance(content, dict) and set(content) == {"features"} else content
    if not isinstance(lines, list) or not lines:
        raise UserError(f"{path}: must be a list of features, e.g. - speech:microsoft/wavlm-large@layers=6-12")
    return [(f"{path}, feature {number}", line) for number, line in enumerate(lines, 1)]
