"""What a run of `transcribe` needs before any recording is opened: its options, and the models that they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...toolkit.base.device import pick_device
from ...toolkit.base.errors import UserError
from . import recognition, voice_encoders
from .pieces import Models
from .recognition import Recogniser
from .requirements import ASR_MODEL, SPEAKER_MODEL, require_packages
from .turns import PAUSE_S
from .voice_activity import RATE, Silero


@dataclasses.dataclass(frozen=True)
class Options:
    """How turns are found; each is an option of `erc-toolkit transcribe`.

    Attributes:
        speakers: number of people; None to find it.
        language: code such as "en"; None to detect it.
        asr_model: size, hub name or folder of a Whisper model for faster-whisper.
        speaker_model: see `voice_encoders`.
        names: of the people, in order of appearance.
        audio_track: number of the audio track, from 1; None for the recording's default one.
        pause: seconds after which the same person's speech is another turn.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    """

    speakers: int | None = None
    language: str | None = None
    asr_model: str = ASR_MODEL
    speaker_model: str = SPEAKER_MODEL
    names: tuple[str, ...] = ()
    audio_track: int | None = None
    pause: float = PAUSE_S
    device: str = "auto"

    def request(self) -> dict[str, Any]:
        """What decides on the turns, as plain JSON; names are given to them afterwards."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("names", "device")
        }


class ModelError(UserError):
    """A model or a package is missing, so that no recording can be read."""


class Loader:
    """Loads the models once, when they are first needed; several recordings share them.

    Args:
        options: which models, and the device.
        live: for a stream: the recogniser is `FasterWhisper` with `short_windows`, and the models have computed once,
            as that takes longer the first time.
    """

    def __init__(self, options: Options, *, live: bool = False) -> None:
        self._options, self._live = options, live
        self._models: Models | None = None
        self._recogniser: Recogniser | None = None

    def models(self) -> Models:
        """All three.

        Raises:
            ModelError: a package or a model is missing; nothing has been decoded then.
        """
        if self._models is None:
            recogniser = self.recogniser()
            with _as_model_errors():
                voices = voice_encoders.load_voice_encoder(
                    self._options.speaker_model, pick_device(self._options.device)
                )
                self._models = Models(Silero(), recogniser, voices)
            if self._live:
                self._warm_up(self._models)
        return self._models

    def _warm_up(self, models: Models) -> None:
        silence = np.zeros(RATE, np.float32)
        models.recogniser.words(silence, self._options.language or models.recogniser.detect(silence))
        models.voices.embed([silence])

    def recogniser(self) -> Recogniser:
        """The speech recogniser alone, for corrected turns.

        Raises:
            ModelError: a package or the model is missing.
        """
        if self._recogniser is None:
            with _as_model_errors():
                require_packages()
                device = str(pick_device(self._options.device))
                self._recogniser = recognition.FasterWhisper(
                    self._options.asr_model, device, self._options.language, short_windows=self._live
                )
        return self._recogniser


@contextmanager
def _as_model_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise ModelError(error.message) from None
