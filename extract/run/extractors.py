"""The extractors of a run: chosen from the registry by the options, built, and recorded in the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...toolkit.base.device import check_precision, products_in
from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.manifest import MODALITIES
from ...toolkit.media import SAMPLE_RATE, library_version
from ..encoders.base import AudioSpan, Crops, Extracted, Extractor, Frames, Provenance, Samples, Setup
from ..encoders.option import OptionSpec, option_specs
from ..encoders.registry import Registered, check_owners, find_extractor, own_options
from ..encoders.selection import FEATURE_OPTIONS, OPENSMILE, Options, built_in_extractor, feature_options, recordable
from ..faces.detection import DETECTION_WIDTH, YUNET_SCORE, face_model, make_detector
from .requests import MediaRequest
from .speaker import SPEAKER_OPTIONS, ChoiceOfSpeaker, choice_of_speaker

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RunExtractor:
    """One extractor of a run.

    Attributes:
        registered: its class and the package it comes from.
        extractor: the extractor itself.
        provenance: how the features are computed, including how crops or frames are taken.
        options: the options that the features depend on, as the store records them for `predict`.
        alone: whether each utterance is extracted by itself, so that the others do not affect the last bits of its
            features, as they do in a batch.
    """

    registered: Registered
    extractor: Extractor
    provenance: Provenance
    options: dict[str, object]
    alone: bool = False

    @property
    def modality(self) -> str:
        return self.registered.cls.modality

    def results(
        self, utterances: Sequence[Any], done: Callable[[int], None] = lambda count: None
    ) -> Iterator[Extracted]:
        """The extractor's results for the utterances, one by one, checked.

        Raises:
            UserError: results that violate the contract.
        """
        wants = self.extractor.wants
        if isinstance(wants, Samples) and wants.rate is not None:
            utterances = [_at_rate(span, wants.rate) for span in utterances]
        count = 0
        for group in [[one] for one in utterances] if self.alone else [utterances]:
            for result in self.extractor.extract(group, done):
                count += 1
                if count <= len(utterances):
                    yield self.checked(result)
        if count != len(utterances):
            raise self._broken(f"returned {counted(count, 'result')} for {counted(len(utterances), 'utterance')}")

    def checked(self, result: Extracted) -> Extracted:
        """The result, if it fulfils the contract.

        Raises:
            UserError: it does not; names the member.
        """
        extractor = self.extractor
        if not isinstance(result, Extracted):
            raise self._broken(f"returned {type(result).__name__}, not Extracted")
        if unknown := set(result.details) - set(extractor.details):
            raise self._broken(f"returned the detail {sorted(unknown)[0]!r}, which its details do not declare")
        if not isinstance(result.reason, str) or (result.values is None) != bool(result.reason):
            raise self._broken("must return either values or a reason why there are none")
        if result.values is None:
            return result
        width = extractor.dim * len(extractor.matrices)
        if np.shape(result.values) != (width,):
            raise self._broken(f"returned values of shape {np.shape(result.values)}, not ({width},)")
        if not extractor.frame_width:
            return result
        if result.frames is None or result.times is None:
            raise self._broken("returned no frames or no times, although sequences were requested")
        if np.shape(result.frames) != (len(result.times), extractor.frame_width):
            raise self._broken(
                f"returned frames of shape {np.shape(result.frames)} and {counted(len(result.times), 'time')}, not (T, "
                f"{extractor.frame_width}) and T"
            )
        return result

    def _broken(self, what: str) -> UserError:
        return UserError(f"{self.registered}: extract() {what}")


@dataclass(frozen=True)
class RunExtractors:
    """The extractors of a run by modality; if face crops are needed, the face detector's (file, SHA-256) and how the
    speaker is chosen."""

    by_modality: Mapping[str, RunExtractor]
    detector: tuple[Path, str] | None
    options: Options
    speaker: ChoiceOfSpeaker | None = None

    @classmethod
    def make(cls, options: Options, alone: bool = False) -> RunExtractors:
        """Loads the extractors, the cheapest first, so that a missing model is reported before anything else is done.

        Args:
            options: which, and how.
            alone: as for `RunExtractor`.

        Raises:
            UserError: a model that cannot be loaded, an extractor that is not installed or violates the contract, a
                precision that the device does not have, or incompatible options.
        """
        chosen = choose(options)
        # The options of all extractors, and whether they support sequences, are checked before any model is loaded.
        given: dict[str, Any] = {}
        for modality, registered in chosen.items():
            own = own_options(registered.name, options.extractor_options)
            given[modality] = options if registered.built_in else registered.options(own)
            if options.sequences:
                registered.check_sequences()
            if registered.name != OPENSMILE:
                check_precision(options.precision, _device(registered, options), "--precision")
        detector = speaker = None
        if "visual" in chosen and chosen["visual"].built_in:
            detector = _load_detector(options)
        built: dict[str, Extractor] = {}
        for modality in ("audio", "visual", "text"):
            if modality in chosen:
                setup = Setup(_device(chosen[modality], options), options.precision, options.sequences)
                built[modality] = chosen[modality].build(given[modality], setup)
        wants = built["visual"].wants if "visual" in built else None
        if isinstance(wants, Crops) and detector is None:
            detector = _load_detector(options)
        if isinstance(wants, Crops):
            speaker = choice_of_speaker(options)
            options = replace(options, speaker_choice=speaker.by)
        if options.save_crops is not None and "visual" in built and not isinstance(wants, Crops):
            raise UserError(f"--save-crops: {chosen['visual']} does not use face crops; leave the option out")
        found = {}
        for modality in (m for m in MODALITIES if m in built):
            registered, extractor = chosen[modality], built[modality]
            origin = provenance(registered, extractor, given[modality], options, detector, speaker)
            recorded = options_record(registered, extractor, given[modality], options)
            found[modality] = RunExtractor(registered, extractor, origin, recorded, alone)
        return cls(found, detector, options, speaker)

    def all(self) -> Iterator[RunExtractor]:
        """All extractors of the run."""
        yield from self.by_modality.values()

    def lines(self) -> Iterator[str]:
        """A line about each extractor, for the user."""
        for one in self.all():
            origin = one.provenance
            parts = [str(origin["weights"])] if "weights" in origin else []
            if "weights_sha256" in origin:
                where = f", on {origin['device']}" if "device" in origin else ""
                parts.append(f"weights sha256 {str(origin['weights_sha256'])[:12]}…{where}")
            weights = f" ({'; '.join(parts)})" if parts else ""
            yield f"{one.modality}: {origin['model']}, {counted(one.extractor.dim, 'dimension')}{weights}"
        if self.detector is not None:
            file, options = self.detector[0].name, self.options
            yield f"faces: {options.face_detector} ({file}), {options.fps:g} frames per second"
        if self.speaker is not None:
            yield f"speaker among several faces: {self.speaker.line}"

    def arithmetic(self) -> AbstractContextManager[None]:
        """The context of the run's networks: PyTorch has one setting for all threads, so one is made for the run."""
        networks = [one.registered for one in self.all() if one.registered.name != OPENSMILE]
        return products_in(self.options.precision, _device(networks[0], self.options)) if networks else nullcontext()

    def request(self, audio: bool, visual: bool) -> MediaRequest:
        """The request to the workers for the modalities that are not done yet."""
        options = self.options
        audio_wants = self.by_modality["audio"].extractor.wants if audio else None
        visual_wants = self.by_modality["visual"].extractor.wants if visual else None
        assert audio_wants is None or isinstance(audio_wants, Samples)
        assert visual_wants is None or isinstance(visual_wants, Crops | Frames)
        return MediaRequest(
            audio=audio_wants,
            visual=visual_wants,
            detector=options.face_detector,
            detector_model=self.detector[0] if self.detector is not None else None,
            fps=options.fps,
            margin=options.face_margin,
            most_frames=options.most_frames,
            time_limit=options.time_limit,
            audio_track=options.audio_track,
            choosing=self.speaker.choosing if self.speaker is not None else None,
        )


def choose(options: Options) -> dict[str, Registered]:
    """The extractor of each requested modality, by the options.

    Raises:
        UserError: an --extractor that is not installed, is built in, is for a modality that is not requested, or is for
            the same modality as another.
    """
    check_owners(options)
    others: dict[str, Registered] = {}
    for name in dict.fromkeys(options.extractors):
        registered = find_extractor(name)
        if registered.built_in:
            flags = ", ".join(spec.flag for spec in option_specs(Options).values() if name in spec.of)
            raise UserError(f"--extractor {name}: is built in; choose it with {flags}")
        modality = registered.cls.modality
        if modality not in options.modalities:
            raise UserError(f"--extractor {name}: extracts {modality}, which is not among --modalities")
        if modality in others:
            raise UserError(
                f"--extractor {name}: {others[modality]} extracts {modality} already; use them in separate runs"
            )
        others[modality] = registered
    return {
        modality: others.get(modality) or find_extractor(built_in_extractor(options, modality))
        for modality in MODALITIES
        if modality in options.modalities
    }


def replaced_options(options: Options, given: set[str]) -> list[tuple[OptionSpec, str]]:
    """The given options that only a replaced built-in extractor reads, each with the name of the replacement."""
    specs = option_specs(Options)
    others = [find_extractor(name) for name in options.extractors]
    return [
        (specs[name], other.name)
        for other in others
        for name in given
        if specs[name].of and other.cls.modality in specs[name].makes
    ]


def shared_options(modality: str) -> tuple[str, ...]:
    """Names of the options that a modality's features depend on with any extractor."""
    specs = option_specs(Options)
    return tuple(name for name in FEATURE_OPTIONS[modality] if not specs[name].of)


def options_record(registered: Registered, extractor: Extractor, own: Any, options: Options) -> dict[str, object]:
    """The options that an extractor's features depend on, as the store records them and `predict` reads them."""
    if registered.built_in:
        return feature_options(options, extractor.modality)
    shared = [
        name
        for name in shared_options(extractor.modality)
        if isinstance(extractor.wants, Crops) or not name.startswith(("face_", *SPEAKER_OPTIONS))
    ]
    return {
        "extractor": registered.name,
        "extractor_package": registered.package.removeprefix("package "),
        **{f"{registered.name}.{key}": value for key, value in recordable(own, _affecting(own)).items()},
        **recordable(options, shared),
    }


def _affecting(own: Any) -> list[str]:
    """Names of an extractor's own options that affect its features."""
    return [name for name, spec in option_specs(type(own)).items() if spec.changes_numbers]


def provenance(
    registered: Registered,
    extractor: Extractor,
    own: Any,
    options: Options,
    detector: tuple[Path, str] | None,
    speaker: ChoiceOfSpeaker | None = None,
) -> Provenance:
    """How the features are computed: the extractor's own provenance, and how its crops or frames are taken."""
    own_part = extractor.provenance()
    if registered.built_in and isinstance(extractor.wants, Samples):  # has what is to be said of its media already
        return own_part
    media_part = media_provenance(extractor, options, detector, speaker)
    result: Any = {"extractor": registered.name, **own_part}
    versions = {**own_part.get("versions", {}), **media_part["versions"]}
    parameters = {**media_part["parameters"], **own_part.get("parameters", {})}
    if not registered.built_in:
        specs = option_specs(type(own))
        # A file is identified by its content, which the extractor records, and not by its path.
        values = {name: getattr(own, name) for name in _affecting(own) if specs[name].kind is not Path}
        parameters = {**parameters, **({"options": values} if values else {})}
    if versions:
        result["versions"] = versions
    if parameters:
        result["parameters"] = parameters
    return json.loads(json.dumps(result))


def media_provenance(
    extractor: Extractor,
    options: Options,
    detector: tuple[Path, str] | None,
    speaker: ChoiceOfSpeaker | None = None,
) -> dict[str, dict[str, Any]]:
    """How the input of an extractor is taken from the media, for the store."""
    wants = extractor.wants
    versions, parameters = {}, {}
    if wants.modality != "text":
        versions = {"ffmpeg": library_version()}
    if isinstance(wants, Samples) and wants.rate is not None:
        parameters = {"sample_rate_hz": wants.rate}
    if isinstance(wants, Frames):
        parameters = {
            "frames_per_second": options.fps,
            "most_frames": options.most_frames,
            "frame_pixels": [wants.width, wants.height],
        }
    if isinstance(wants, Crops):
        assert detector is not None
        versions = {"opencv": version("opencv-python-headless"), "ffmpeg": library_version()}
        parameters = {
            "frames_per_second": options.fps,
            "most_frames": options.most_frames,
            "face_detector": options.face_detector,
            "face_model_sha256": detector[1],
            "detection_width": DETECTION_WIDTH,
            "least_score": YUNET_SCORE if options.face_detector == "yunet" else "the cascade's own",
            "crop_pixels": wants.side,
            "crop_margin": options.face_margin,
            **(speaker.parameters() if speaker is not None else {}),
            "aligned": "five landmarks" if options.face_detector == "yunet" else "no, box alone",
        }
    if options.audio_track is not None and wants.modality != "text":
        parameters["audio_track"] = options.audio_track
    return {"versions": versions, "parameters": parameters}


def _device(registered: Registered, options: Options) -> torch.device:
    from ...toolkit.base.device import pick_device

    # openSMILE runs on the CPU only, and works even if the named device does not exist.
    return pick_device("cpu" if registered.name == OPENSMILE else options.device)


def _load_detector(options: Options) -> tuple[Path, str]:
    detector = face_model(options.face_detector, options.face_model)
    make_detector(options.face_detector, detector[0])
    return detector


def _at_rate(span: AudioSpan, rate: int) -> AudioSpan:
    if span.rate == rate or rate == SAMPLE_RATE:
        return span
    from ..encoders.audio.speech import resample

    return resample(span, rate)
