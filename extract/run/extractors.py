"""The extractors of a run: chosen by the options through the registry, built, and what the store records of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.manifest import MODALITIES
from ...toolkit.media import SAMPLE_RATE, ffmpeg_version
from ..encoders.base import AudioSpan, Crops, Extracted, Extractor, Frames, MediaRequest, Provenance, Samples, Setup
from ..encoders.option import OptionSpec, option_specs
from ..encoders.registry import Registered, check_owners, find_extractor, own_options
from ..encoders.selection import MAKING, OPENSMILE, Options, built_in_extractor, making, recordable
from ..faces.detection import DETECTION_WIDTH, YUNET_SCORE, face_model, make_detector
from ..faces.speaking import RULE

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RunExtractor:
    """One extractor of a run.

    Attributes:
        registered: its class and where it is from.
        extractor: built.
        provenance: what made the features, how crops or frames were taken included.
        options: the options that make the features, as the store records them for `predict`.
    """

    registered: Registered
    extractor: Extractor
    provenance: Provenance
    options: dict[str, object]

    @property
    def modality(self) -> str:
        return self.registered.cls.modality

    def results(
        self, utterances: Sequence[Any], done: Callable[[int], None] = lambda count: None
    ) -> Iterator[Extracted]:
        """What the extractor gives for the utterances, one by one, checked.

        Raises:
            UserError: results that break the contract.
        """
        wants = self.extractor.wants
        if isinstance(wants, Samples) and wants.rate is not None:
            utterances = [_at_rate(span, wants.rate) for span in utterances]
        count = 0
        for result in self.extractor.extract(utterances, done):
            count += 1
            if count <= len(utterances):
                yield self.checked(result)
        if count != len(utterances):
            raise UserError(f"{self.registered}: extract() gave {count} results for {len(utterances)} utterances")

    def checked(self, result: Extracted) -> Extracted:
        """The result, as the contract wants it.

        Raises:
            UserError: it is not; names the member.
        """
        extractor = self.extractor
        if not isinstance(result, Extracted):
            raise self._broken(f"gave {type(result).__name__}, not Extracted")
        if unknown := set(result.details) - set(extractor.details):
            raise self._broken(f"gave the detail {sorted(unknown)[0]!r}, which its details do not declare")
        if not isinstance(result.reason, str) or (result.values is None) != bool(result.reason):
            raise self._broken("must give either values or a reason why there are none")
        if result.values is None:
            return result
        width = extractor.dim * len(extractor.matrices)
        if np.shape(result.values) != (width,):
            raise self._broken(f"gave values of shape {np.shape(result.values)}, not ({width},)")
        if not extractor.frame_width:
            return result
        if result.frames is None or result.times is None:
            raise self._broken("gave no frames, or no times, where sequences are asked for")
        if np.shape(result.frames) != (len(result.times), extractor.frame_width):
            raise self._broken(
                f"gave frames of shape {np.shape(result.frames)} and {len(result.times)} times, not (T, "
                f"{extractor.frame_width}) and T"
            )
        return result

    def _broken(self, what: str) -> UserError:
        return UserError(f"{self.registered}: extract() {what}")


@dataclass(frozen=True)
class RunExtractors:
    """The extractors of a run by modality, and the face detector's (file, SHA-256) where face crops are wanted."""

    by_modality: Mapping[str, RunExtractor]
    detector: tuple[Path, str] | None
    options: Options

    @classmethod
    def make(cls, options: Options) -> RunExtractors:
        """Loads what was asked for, what is cheapest first, so that a missing model is reported before anything else
        is done.

        Raises:
            UserError: a model that cannot be had, an extractor that is not there or breaks the contract, or options
                that do not go together.
        """
        chosen = choose(options)
        # Options of all extractors, and whether they can give sequences, before the first model is loaded.
        given: dict[str, Any] = {}
        for modality, registered in chosen.items():
            own = own_options(registered.name, options.extractor_options)
            given[modality] = options if registered.built_in else registered.options(own)
            if options.sequences:
                registered.check_sequences()
        detector = None
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
        if options.save_crops is not None and "visual" in built and not isinstance(wants, Crops):
            raise UserError(f"--save-crops: {chosen['visual']} takes no face crops; leave the option out")
        found = {}
        for modality in (m for m in MODALITIES if m in built):
            registered, extractor = chosen[modality], built[modality]
            made = provenance(registered, extractor, given[modality], options, detector)
            recorded = record(registered, extractor, given[modality], options)
            found[modality] = RunExtractor(registered, extractor, made, recorded)
        return cls(found, detector, options)

    def all(self) -> Iterator[RunExtractor]:
        """The extractors that there are."""
        yield from self.by_modality.values()

    def lines(self) -> Iterator[str]:
        """A line about each, for the user."""
        for one in self.all():
            made = one.provenance
            parts = [str(made["weights"])] if "weights" in made else []
            if "weights_sha256" in made:
                where = f", on {made['device']}" if "device" in made else ""
                parts.append(f"weights sha256 {str(made['weights_sha256'])[:12]}…{where}")
            origin = f" ({'; '.join(parts)})" if parts else ""
            yield f"{one.modality}: {made['model']}, {one.extractor.dim} dimensions{origin}"
        if self.detector is not None:
            yield f"faces: {self.options.face_detector} ({self.detector[0].name}), {self.options.fps:g} frames a second"

    def request(self, audio: bool, visual: bool) -> MediaRequest:
        """What workers are to do for the modalities that are still open."""
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
        )


def choose(options: Options) -> dict[str, Registered]:
    """The extractor of each modality that is asked for, by the options.

    Raises:
        UserError: one that is not there, is built in, is of a modality that is not asked for, or of another's modality.
    """
    check_owners(options)
    others: dict[str, Registered] = {}
    for name in dict.fromkeys(options.extractors):
        registered = find_extractor(name)
        if registered.built_in:
            flags = ", ".join(spec.flag for spec in option_specs(Options).values() if name in spec.of)
            raise UserError(f"--extractor {name}: is built in; {flags} choose it")
        modality = registered.cls.modality
        if modality not in options.modalities:
            raise UserError(f"--extractor {name}: makes {modality}, which --modalities does not name")
        if modality in others:
            raise UserError(f"--extractor {name}: {others[modality]} makes {modality} already; give one of them a run")
        others[modality] = registered
    return {
        modality: others.get(modality) or find_extractor(built_in_extractor(options, modality))
        for modality in MODALITIES
        if modality in options.modalities
    }


def replaced_options(options: Options, given: set[str]) -> list[tuple[OptionSpec, str]]:
    """Of the options that a user gave, those that only a built-in extractor reads whose place another one takes."""
    specs = option_specs(Options)
    others = [find_extractor(name) for name in options.extractors]
    return [
        (specs[name], other.name)
        for other in others
        for name in given
        if specs[name].of and other.cls.modality in specs[name].makes
    ]


def shared_options(modality: str) -> tuple[str, ...]:
    """Names of the options that a modality's features depend on whatever the extractor."""
    specs = option_specs(Options)
    return tuple(name for name in MAKING[modality] if not specs[name].of)


def record(registered: Registered, extractor: Extractor, own: Any, options: Options) -> dict[str, object]:
    """The options that make an extractor's features, as the store records them and `predict` reads them."""
    if registered.built_in:
        return making(options, extractor.modality)
    shared = [
        name
        for name in shared_options(extractor.modality)
        if isinstance(extractor.wants, Crops) or not name.startswith("face_")
    ]
    return {
        "extractor": registered.name,
        "extractor_package": registered.package.removeprefix("package "),
        **{f"{registered.name}.{key}": value for key, value in recordable(own, _telling(own)).items()},
        **recordable(options, shared),
    }


def _telling(own: Any) -> list[str]:
    return [name for name, spec in option_specs(type(own)).items() if spec.changes_numbers]


def provenance(
    registered: Registered, extractor: Extractor, own: Any, options: Options, detector: tuple[Path, str] | None
) -> Provenance:
    """What made the features: the extractor's own record, and how its crops or frames were taken."""
    made = extractor.provenance()
    record = media_record(extractor, options, detector)
    result: Any = {"extractor": registered.name, **made}
    versions = {**made.get("versions", {}), **record["versions"]}
    parameters = {**record["parameters"], **made.get("parameters", {})}
    if registered.built_in and isinstance(extractor.wants, Samples):
        return made
    if not registered.built_in:
        specs = option_specs(type(own))
        # A file is known by its content, which is the extractor's to say, and not by its path.
        values = {name: getattr(own, name) for name in _telling(own) if specs[name].kind is not Path}
        parameters = {**parameters, **({"options": values} if values else {})}
    if versions:
        result["versions"] = versions
    if parameters:
        result["parameters"] = parameters
    return json.loads(json.dumps(result))


def media_record(
    extractor: Extractor, options: Options, detector: tuple[Path, str] | None
) -> dict[str, dict[str, Any]]:
    """How the media that an extractor wants are taken, for the store."""
    wants = extractor.wants
    versions, parameters = {}, {}
    if not wants.modality == "text":
        versions = {"ffmpeg": ffmpeg_version()}
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
        versions = {"opencv": version("opencv-python-headless"), "ffmpeg": ffmpeg_version()}
        parameters = {
            "frames_per_second": options.fps,
            "most_frames": options.most_frames,
            "face_detector": options.face_detector,
            "face_model_sha256": detector[1],
            "detection_width": DETECTION_WIDTH,
            "least_score": YUNET_SCORE if options.face_detector == "yunet" else "the cascade's own",
            "speaker": f"the track with the highest score: {RULE}; within the manifest's region where it gives one",
            "crop_pixels": wants.side,
            "crop_margin": options.face_margin,
            "aligned": "five landmarks" if options.face_detector == "yunet" else "no, box alone",
        }
    return {"versions": versions, "parameters": parameters}


def _device(registered: Registered, options: Options) -> torch.device:
    from ...toolkit.base.device import pick_device

    # openSMILE has no use for another device, and works where the one that is named does not exist.
    return pick_device("cpu" if registered.name == OPENSMILE else options.device)


def _load_detector(options: Options) -> tuple[Path, str]:
    detector = face_model(options.face_detector, options.face_model)
    make_detector(options.face_detector, detector[0])
    return detector


def _at_rate(span: AudioSpan, rate: int) -> AudioSpan:
    if span.rate == rate or rate == SAMPLE_RATE:
        return span
    from ..encoders.speech import resample

    return resample(span, rate)
