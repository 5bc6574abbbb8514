"""Presets: options of `erc-toolkit extract` in a YAML file, with what must be given and what follows.

options: {audio-set: IS10, pooling: last4}     # as on the command line, without the dashes before them
needs: {visual-weights: how to get them}       # options that must be given on the command line
reduce: [{feature: audio/ComParE_2016, to: 300, method: anova}]    # done after the extraction
corpora: {meld: {options: {...}, needs: {...}, reduce: [...]}}     # instead, on a corpus
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..toolkit.base.errors import UserError
from ..toolkit.base.reading.plain_yaml import load_yaml
from ..toolkit.base.shipped import read_shipped, shipped_names
from ..toolkit.base.words import counted, did_you_mean
from ..toolkit.manifest import MODALITIES, Manifest
from .encoders.option import OptionSpec, option_specs
from .encoders.selection import Options
from .reduce import METHODS

_KEYS = ("options", "needs", "reduce")
# A given option, and the preset's that has no place beside it.
_REPLACED_BY = {"audio_set": "audio_model", "audio_model": "audio_set", "visual_model": "visual_weights"}
_STEP = {"feature": str, "to": int, "method": str, "name": str}


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset for a corpus.

    Attributes:
        name: as the user gave it.
        sha256: of the file.
        options: field of `Options` to value.
        needs: field of `Options` to the remedy if it is not given.
        reduce: arguments of `erc_toolkit.extract.reduce.reduce_store`, without the store.
    """

    name: str
    sha256: str
    options: dict[str, Any]
    needs: dict[str, str]
    reduce: list[dict[str, Any]] = field(default_factory=list)

    def chosen(self, given: Collection[str]) -> dict[str, Any]:
        """Its options without those given on the command line, and without those that the given ones replace.

        Raises:
            UserError: an option that it needs is not among those given.
        """
        for name, remedy in self.needs.items():
            if name not in given:
                raise UserError(f"--preset {self.name}: give {option_specs(Options)[name].flag}; {remedy}")
        replaced = {_REPLACED_BY[name] for name in given if name in _REPLACED_BY}
        return {name: value for name, value in self.options.items() if name not in {*given, *replaced}}

    def check_corpus(self, manifest: Manifest, modalities: Collection[str] = MODALITIES) -> None:
        """Raises a UserError if a corpus has too few labelled training utterances for a reduction, before the work.

        Args:
            manifest: the corpus.
            modalities: those that are extracted.
        """
        rows = sum(u.split == "train" and u.label is not None for u in manifest.utterances)
        for step in self.reduce:
            if step["to"] > rows and step["feature"].split("/")[0] in modalities:
                raise UserError(
                    f"--preset {self.name}: {step['feature']} is reduced to {step['to']} dimensions, more than the "
                    f"{counted(rows, 'labelled training utterance')} of {manifest.root}; use a preset of your own with "
                    f"fewer (--show-preset {self.name} prints this one)"
                )

    def describe(self, chosen: Mapping[str, Any]) -> str:
        """A line for the terminal and the store: name, hash, and the options in use, as they are typed."""
        shown = ", ".join(_typed(name, value) for name, value in chosen.items())
        return f"preset {self.name} (sha256 {self.sha256}): {shown or 'every option is given on the command line'}"


def _typed(name: str, value: object) -> str:
    """An option as it is typed."""
    flag = option_specs(Options)[name].flag
    if isinstance(value, Mapping):
        return " ".join(f"{flag} {key}={one}" for key, one in value.items())
    if isinstance(value, bool):
        return flag if value else f"{flag} false"
    return f"{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def preset_names() -> list[str]:
    """Names of the presets that come with the toolkit."""
    return shipped_names("presets")


def preset_text(name: str) -> str:
    """The YAML of a preset, by name or path.

    Raises:
        UserError: there is none.
    """
    return read_shipped("presets", "preset", name)[0]


def load_preset(name: str, corpus: str) -> Preset:
    """Loads a preset, by name or path, for a corpus.

    Raises:
        UserError: there is none, or its content is invalid; the message names the file and the key.
    """
    text, where = read_shipped("presets", "preset", name)
    try:
        content: Any = load_yaml(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: must contain options, e.g. options: {{audio-set: IS10}}")
    corpora = content.pop("corpora", {})
    if not isinstance(corpora, dict):
        raise UserError(f"{where}: corpora must map names of corpora to options, needs, reduce")
    found = {key: _section(content, key, where) for key in _KEYS}
    _refuse_others(content, where)
    for other, own in corpora.items():
        if not isinstance(own, dict):
            raise UserError(f"{where}: corpora.{other} must contain options, needs or reduce")
        _refuse_others(own, f"{where}: corpora.{other}")
        if str(other).lower() == corpus.lower():
            for key in _KEYS:
                if key in own:
                    value = _section(own, key, f"{where}: corpora.{other}")
                    found[key] = value if key == "reduce" else {**found[key], **value}
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Preset(Path(name).stem if where == name else name, digest, **found)


def _refuse_others(content: Mapping[str, object], where: str) -> None:
    if unknown := [key for key in content if key not in _KEYS]:
        raise UserError(f"{where}: unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), _KEYS)}")


def _section(content: Mapping[str, Any], key: str, where: str) -> Any:
    value = content.get(key, [] if key == "reduce" else {})
    if key == "reduce":
        return _reductions(value, where)
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} must map options of `erc-toolkit extract` to values")
    specs, found = option_specs(Options), {}
    for name, given in value.items():
        spec = _spec(str(name), specs, f"{where}: {key}")
        if key == "needs" and not isinstance(given, str):
            raise UserError(f"{where}: needs.{name} must say how to get it")
        try:
            found[spec.name] = given if key == "needs" else spec.parsed(given)
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: {key}.{name}: {error}") from None
    return found


def _spec(name: str, specs: Mapping[str, OptionSpec], where: str) -> OptionSpec:
    spec = specs.get(name.replace("-", "_"))
    if spec is None:
        known = [one.replace("_", "-") for one in specs]
        raise UserError(f"{where}: extract has no option {name!r}{did_you_mean(name, known)}")
    return spec


def _reductions(value: object, where: str) -> list[dict[str, Any]]:
    steps: list[Any] = value if isinstance(value, list) else [None]
    for step in steps:
        if (
            not isinstance(step, dict)
            or not {"feature", "to"} <= set(step) <= set(_STEP)
            or not all(type(given) is _STEP[key] for key, given in step.items())
            or step.get("method", "anova") not in METHODS
        ):
            raise UserError(
                f"{where}: reduce must list steps such as {{feature: audio/ComParE_2016, to: 300, method: anova}}"
            )
    return steps
