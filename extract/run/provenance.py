"""What the store records of an extractor: how its features are computed, and the options that they depend on."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...toolkit.media import library_version
from ..encoders.base import Crops, Extractor, Frames, Provenance, Samples
from ..encoders.option import option_specs
from ..encoders.registry import Registered
from ..encoders.selection import FEATURE_OPTIONS, Options, feature_options, recordable
from ..faces.detection import DETECTION_WIDTH, YUNET_SCORE
from .media.speaker import SPEAKER_OPTIONS, ChoiceOfSpeaker


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


def detection_parameters(options: Options, detector: tuple[Path, str]) -> dict[str, Any]:
    """How faces are found, as JSON; `detector` is its file and SHA-256."""
    least = {} if options.smallest_face is None else {"smallest_face": options.smallest_face}
    return {"face_detector": options.face_detector, "face_model_sha256": detector[1], **least}


def detection_in_words(options: Options, detector: tuple[Path, str]) -> str:
    """The same for the user, with how often it is done."""
    least = "" if options.smallest_face is None else f", from {options.smallest_face:.0%} of the height"
    return f"{options.face_detector} ({detector[0].name}), {options.fps:g} frames per second{least}"


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
        other = wants.fit != "stretch" or wants.border
        fit = {"frame_fit": wants.fit, "frame_border": wants.border} if other else {}
        parameters = {
            "frames_per_second": options.fps,
            "most_frames": options.most_frames,
            "frame_pixels": [wants.width, wants.height],
            **fit,
        }
    if isinstance(wants, Crops):
        assert detector is not None
        versions = {"opencv": version("opencv-python-headless"), "ffmpeg": library_version()}
        parameters = {
            "frames_per_second": options.fps,
            "most_frames": options.most_frames,
            **detection_parameters(options, detector),
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
