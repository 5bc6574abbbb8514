"""What to extract, and the encoders that do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ...toolkit.base.device import pick_device
from ...toolkit.manifest import MODALITIES
from ...toolkit.media import ffmpeg_version
from ..run.worker import Wanted


@dataclass(frozen=True)
class Options:
    """What to extract and how; the fields are the options of `erc-toolkit extract`."""

    modalities: tuple[str, ...] = MODALITIES
    text_model: str = "roberta-large"
    pooling: str = "mean"
    text_context: int = 0
    audio_set: str = "ComParE_2016"
    audio_model: str | None = None
    visual_model: str = "densenet121"
    visual_weights: str = "imagenet"
    normalisation: str | None = None
    sequences: bool = False
    precision: str = "float32"
    face_detector: str = "yunet"
    face_model: Path | None = None
    fps: float = 5.0
    face_margin: float = 0.1
    most_frames: int = 100
    save_crops: Path | None = None
    device: str = "auto"
    workers: int = 0
    time_limit: float = 1800.0
    log_json: bool = False
    part_size: int = 32


# The options that make a modality's features what they are. The store keeps them, so that the same can be done to other files.
MAKING = {
    "text": ("text_model", "pooling", "text_context", "precision"),
    "audio": ("audio_set", "audio_model", "precision"),
    "visual": (
        "visual_model",
        "visual_weights",
        "normalisation",
        "precision",
        "face_detector",
        "face_model",
        "fps",
        "face_margin",
        "most_frames",
    ),
}


def making(options: Options, modality: str) -> dict[str, object]:
    """The options that a modality's features depend on, as JSON holds them; a file or folder by its absolute path."""
    made = {name: getattr(options, name) for name in MAKING[modality]}
    return {
        name: str(Path(v).resolve()) if isinstance(v, (str, Path)) and Path(v).exists() else v
        for name, v in made.items()
    }


@dataclass(frozen=True)
class Encoders:
    """The encoders of a run, each None where its modality is not asked for; and the face detector's (file, SHA-256)."""

    text: object | None
    audio: object | None
    visual: object | None
    detector: tuple[Path, str] | None
    options: Options

    @classmethod
    def make(cls, options: Options) -> Encoders:
        """Loads what was asked for, cheapest lack first, so that a missing model is told before anything else is done.

        Raises:
            UserError: a model that cannot be had.
        """
        text = audio = visual = detector = None
        if "visual" in options.modalities:
            from ..faces.detection import face_model, make_detector

            detector = face_model(options.face_detector, options.face_model)
            make_detector(options.face_detector, detector[0])
        if "audio" in options.modalities:
            if options.audio_model is None:
                from .opensmile_sets import Functionals

                audio = Functionals(options.audio_set, options.sequences)
            else:
                from .speech import AudioModel

                audio = AudioModel(
                    options.audio_model, pick_device(options.device), options.precision, options.sequences
                )
        if "visual" in options.modalities:
            visual = _visual(options)
            visual.faces = _face_record(options, detector[1], visual)
        if "text" in options.modalities:
            from .text import TextEncoder

            text = TextEncoder(
                options.text_model,
                options.pooling,
                pick_device(options.device),
                options.text_context,
                options.precision,
            )
        return cls(text, audio, visual, detector, options)

    def all(self) -> Iterator[object]:
        """The encoders that there are."""
        yield from (encoder for encoder in (self.text, self.audio, self.visual) if encoder is not None)

    def lines(self) -> Iterator[str]:
        """A line about each, for the user."""
        for encoder in self.all():
            made = encoder.provenance()
            parts = [str(made["weights"])] if "weights" in made else []
            if "weights_sha256" in made:
                parts.append(f"weights sha256 {str(made['weights_sha256'])[:12]}…, on {made['device']}")
            origin = f" ({'; '.join(parts)})" if parts else ""
            yield f"{encoder.modality}: {made['model']}, {encoder.dim} dimensions{origin}"
        if self.detector is not None:
            yield f"faces: {self.options.face_detector} ({self.detector[0].name}), {self.options.fps:g} pictures a second"

    def wanted(self, options: Options, audio: bool, visual: bool) -> Wanted:
        """What workers are to compute of the modalities that are still open."""
        return Wanted(
            audio=getattr(self.audio, "wants", self.audio.name) if audio else None,
            sequences=options.sequences,
            detector=options.face_detector if visual else None,
            detector_model=self.detector[0] if visual else None,
            fps=options.fps,
            crop_size=self.visual.pictures.side if visual else 0,
            grey=self.visual.pictures.grey if visual else False,
            margin=options.face_margin,
            most_frames=options.most_frames,
            time_limit=options.time_limit,
        )


def _visual(options: Options):
    from .face_network import ARCHITECTURES, FaceEncoder, Normalisation

    own = ARCHITECTURES.get(options.visual_model)
    normalisation = None
    if options.normalisation is not None:
        normalisation = Normalisation.parse(options.normalisation, grey=own is not None and own.pictures.grey)
    rest = (pick_device(options.device), options.precision, options.sequences, normalisation)
    if own is not None:
        return FaceEncoder(options.visual_model, options.visual_weights, *rest)
    from .image import ImageModel

    return ImageModel(options.visual_model, *rest)


def _face_record(options: Options, model_sha256: str, encoder) -> dict[str, object]:
    """How faces are found and cut out, for the store."""
    from ..faces.detection import DETECTION_WIDTH, YUNET_SCORE
    from ..faces.speaking import RULE

    return {
        "versions": {"opencv": version("opencv-python-headless"), "ffmpeg": ffmpeg_version()},
        "parameters": {
            "frames_per_second": options.fps,
            "most_frames": options.most_frames,
            "face_detector": options.face_detector,
            "face_model_sha256": model_sha256,
            "detection_width": DETECTION_WIDTH,
            "least_score": YUNET_SCORE if options.face_detector == "yunet" else "the cascade's own",
            "speaker": f"the track with the highest score: {RULE}; within the manifest's region where it gives one",
            "crop_pixels": encoder.pictures.side,
            "crop_margin": options.face_margin,
            "aligned": "five landmarks" if options.face_detector == "yunet" else "no, box alone",
        },
    }
