"""What is said: words with times and probabilities, by Whisper models in the form of faster-whisper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.hashes import file_sha256
from ..encoders.hub import hub_unreachable, short_name
from ..transcripts.cues import one_line as cleaned
from .requirements import installed_versions
from .voice_activity import RATE

# Whisper reads 30 s at once and fills up what is shorter: voices are put together up to here, but not across long
# silences. Over those it leaves out whole voices: of 60 s with two people and pauses of 0.5 to 2 s, base read 87 words
# in three stretches, and 130 in twelve.
_STRETCH_S, _SILENCE_S = 28.0, 0.8
# Instead of Whisper's usual fallbacks against repetition, which draw random numbers that cannot be fixed within a
# process: no six tokens occur twice in a stretch.
_NO_REPEAT = 6
_EDGE_S = 0.2  # of silence around a stretch
_FAR_S = 0.5  # a word that far from any voice was not heard, but made up


@dataclass(frozen=True)
class Word:
    """A word that was recognised.

    Attributes:
        start, end: in seconds; both None for a word that a person wrote.
        text: the word with its punctuation, without spaces.
        probability: the model's own, 0 to 1; None for a word that a person wrote.
        joined: whether no space precedes it, as in Chinese.
    """

    start: float | None
    end: float | None
    text: str
    probability: float | None
    joined: bool = False


class Recogniser(Protocol):
    """What turns voice into words."""

    def detect(self, samples: np.ndarray) -> str:
        """The language of float32 (n,), mono at 16 kHz, as a code such as "en"."""
        ...

    def words(self, samples: np.ndarray, language: str) -> Sequence[Word]:
        """The words of float32 (n,), mono at 16 kHz, with times in seconds from its beginning, in order."""
        ...

    def provenance(self) -> dict[str, object]:
        """Plain JSON: `model`, `weights_sha256`, `versions`, `parameters`."""
        ...


class FasterWhisper:
    """A Whisper model by CTranslate2: int8 on the CPU, float16 on CUDA.

    The text of one stretch does not depend on that of the one before, and no random numbers are drawn, so that a piece
    gives the same words whenever it is computed.

    Args:
        name_or_dir: a size ("small"), a hub name, or a folder with model.bin, config.json and tokenizer.json.
        device: "cpu", "cuda" or "cuda:N"; others compute on the CPU, as CTranslate2 has no other.
        language: to check whether the model knows it; None to detect it.

    Raises:
        UserError: no such model, neither here nor on the hub; or it does not know the language.
    """

    def __init__(self, name_or_dir: str, device: str = "cpu", language: str | None = None) -> None:
        folder = _folder_of(name_or_dir)
        if not (folder / "model.bin").is_file():
            raise UserError(
                f"--asr-model {name_or_dir}: the folder has no model.bin; convert a Whisper model with "
                "ct2-transformers-converter, or name a size such as small"
            )
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"--asr-model {name_or_dir}: the folder has no tokenizer.json; copy the model's into it")
        import torch
        from faster_whisper import WhisperModel

        kind, _, index = device.partition(":")
        on_gpu = kind == "cuda"
        self._type = "float16" if on_gpu else "int8"
        try:
            self._model = WhisperModel(
                str(folder),
                device="cuda" if on_gpu else "cpu",
                device_index=int(index or 0),
                compute_type=self._type,
                # CTranslate2 sets the number of OpenMP's threads, which are PyTorch's too: with another number the
                # sums of what comes after, features and predictions, would be rounded otherwise.
                cpu_threads=torch.get_num_threads(),
                local_files_only=True,
            )
            known = self._model.supported_languages
        except Exception as error:  # CTranslate2 and tokenizers raise errors of many kinds
            raise UserError(
                f"--asr-model {name_or_dir}: cannot be loaded as a Whisper model: {one_line(error)}"
            ) from None
        if language is not None and language not in known:
            raise UserError(
                f"--language {language}: --asr-model {name_or_dir} knows "
                + (f"only {known[0]}" if len(known) == 1 else f"codes such as {', '.join(known[:5])}")
            )
        self._only = known[0] if len(known) == 1 else None
        self._name, self._sha256 = short_name(name_or_dir), file_sha256(folder / "model.bin")

    def detect(self, samples: np.ndarray) -> str:
        if self._only is not None:
            return self._only
        language, _, _ = self._model.detect_language(samples)
        return language

    def words(self, samples: np.ndarray, language: str) -> list[Word]:
        segments, _ = self._model.transcribe(
            samples,
            language=language,
            word_timestamps=True,
            condition_on_previous_text=False,
            temperature=0.0,
            no_repeat_ngram_size=_NO_REPEAT,
        )
        return [word for segment in segments for word in map(_word, segment.words or ()) if word is not None]

    def provenance(self) -> dict[str, object]:
        return {
            "model": f"whisper {self._name}",
            "weights_sha256": self._sha256,
            "versions": installed_versions("faster-whisper", "ctranslate2"),
            "parameters": {
                "beam_size": 5,
                "dtype": self._type,
                "temperature": 0,
                "no_repeat_ngram": _NO_REPEAT,
                "longest_stretch_s": _STRETCH_S,
                "longest_silence_s": _SILENCE_S,
            },
        }


def _word(word: Any) -> Word | None:
    text = cleaned(word.word)
    if not text:
        return None
    joined = not word.word[:1].isspace()
    return Word(float(word.start), float(word.end), text, min(1.0, max(0.0, float(word.probability))), joined)


def _folder_of(name_or_dir: str) -> Path:
    if Path(name_or_dir).is_dir():
        return Path(name_or_dir)
    from faster_whisper.utils import available_models, download_model

    if "/" not in name_or_dir and name_or_dir not in available_models():
        raise UserError(
            f"--asr-model {name_or_dir}: no such folder or size; sizes are {', '.join(available_models())}; or give a "
            "hub name"
        )
    offline = hub_unreachable()
    try:
        return Path(download_model(name_or_dir, local_files_only=offline))
    except Exception as error:  # the hub's client raises errors of many kinds
        reason = "the hub cannot be reached" if offline else one_line(error, 140)
        raise UserError(
            f"speech recognition model {name_or_dir!r} is not on this machine: connect to the Hugging Face hub, or "
            f"pass a folder with the model with --asr-model DIR ({reason})"
        ) from None


def stretches(spans: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Voiced spans put together to stretches that are recognised at once."""
    found: list[list[tuple[float, float]]] = []
    for span in spans:
        if found and span[1] - found[-1][0][0] <= _STRETCH_S and span[0] - found[-1][-1][1] <= _SILENCE_S:
            found[-1].append(span)
        else:
            found.append([span])
    return found


def recognise(
    recogniser: Recogniser, samples: np.ndarray, spans: Sequence[tuple[float, float]], language: str | None
) -> tuple[list[Word], str | None]:
    """The words of voiced spans, in order, and their language.

    Args:
        recogniser: a speech recogniser.
        samples: float32 (n,), the whole recording, mono at 16 kHz.
        spans: in seconds of the recording.
        language: a code; None to detect it in the first stretch.
    """
    words: list[Word] = []
    for stretch in stretches(spans):
        first, last = (
            max(0, round((stretch[0][0] - _EDGE_S) * RATE)),
            min(len(samples), round((stretch[-1][1] + _EDGE_S) * RATE)),
        )
        part = samples[first:last]
        if language is None:
            language = recogniser.detect(part)
        words += _placed(recogniser.words(part, language), first / RATE, last / RATE, stretch)
    return words, language


def _placed(words: Iterable[Word], origin: float, end: float, spans: Sequence[tuple[float, float]]) -> list[Word]:
    found = []
    for word in words:
        start = min(end, origin + (word.start or 0.0))
        stop = min(end, max(start, origin + (word.end or 0.0)))
        if any(start <= b + _FAR_S and stop >= a - _FAR_S for a, b in spans):
            found.append(Word(round(start, 3), round(stop, 3), word.text, word.probability, word.joined))
    return found


def joined_text(words: Iterable[Word]) -> str:
    """The words as text."""
    return "".join(("" if word.joined else " ") + word.text for word in words).strip()
