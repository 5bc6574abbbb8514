"""CTC models of transformers, and the forced alignment of tokens with what they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import numpy as np
import torch
import torchaudio

from ...toolkit.base.errors import UserError
from ..encoders.hub import load_transformer, short_name
from .spelling import STAR

# Longer audio is read in windows, since the memory of attention grows with the square of the length; each window is
# read with so much before and after it.
WINDOW_S, CONTEXT_S = 30.0, 3.0


class Emitter(Protocol):
    """What hears characters.

    Attributes:
        rate: samples per second that it takes.
        hop_s: seconds from one frame to the next.
        vocabulary: single characters to their columns.
        blank: column of CTC's blank.
        delimiter: column of the token between words, or None.
    """

    rate: int
    hop_s: float
    vocabulary: dict[str, int]
    blank: int
    delimiter: int | None

    def emissions(self, samples: np.ndarray, /) -> np.ndarray:
        """Samples float32 (n,) to log probabilities float32 (frames, columns)."""
        ...

    def provenance(self) -> dict[str, object]:
        """As JSON."""
        ...


class _Processor:
    """Feature extractor and tokenizer, without the language model that a processor may want."""

    @staticmethod
    def from_pretrained(name: str, **options):
        from transformers import AutoFeatureExtractor, AutoTokenizer

        return AutoFeatureExtractor.from_pretrained(name, **options), AutoTokenizer.from_pretrained(name, **options)


class CtcModel:
    """A CTC model by hub name or folder, such as "facebook/wav2vec2-base-960h"; an `Emitter`.

    Args:
        name_or_dir: hub name or folder.
        device: of the model.

    Raises:
        UserError: it cannot be loaded, takes no waveforms, or its vocabulary has no single letters.
    """

    def __init__(self, name_or_dir: str, device: torch.device | str = "cpu") -> None:
        from transformers import AutoModelForCTC

        model, (self._prepare, tokenizer), self._sha256 = load_transformer(
            "CTC model", "--ctc-model", name_or_dir, AutoModelForCTC, _Processor, ("masked_spec_embed",)
        )
        self.name, self._device = short_name(name_or_dir), torch.device(device)
        stride = getattr(model.config, "conv_stride", None)
        if stride is None or getattr(model, "main_input_name", "") != "input_values":
            raise UserError(f"--ctc-model {name_or_dir}: does not take waveforms; use one such as wav2vec2 or hubert")
        self._model = model.to(self._device)
        self._hop, self._width = math.prod(stride), 1  # samples from frame to frame, and that one frame is made from
        for wide, step in reversed([*zip(model.config.conv_kernel, stride, strict=True)]):
            self._width = (self._width - 1) * step + wide
        self.rate = int(self._prepare.sampling_rate)
        self.hop_s = self._hop / self.rate
        self.blank = int(model.config.pad_token_id)
        known = tokenizer.get_vocab()
        self.delimiter = known.get(getattr(tokenizer, "word_delimiter_token", None) or "|")
        self.vocabulary = {k: v for k, v in known.items() if len(k) == 1 and v not in (self.blank, self.delimiter)}
        if not any(k.isalpha() for k in self.vocabulary):
            raise UserError(f"--ctc-model {name_or_dir}: its vocabulary has no letters; use a model of characters")

    def emissions(self, samples: np.ndarray, /) -> np.ndarray:
        frames = 0 if len(samples) < self._width else (len(samples) - self._width) // self._hop + 1
        if frames == 0:
            return np.zeros((0, self._model.config.vocab_size), np.float32)
        # Normalised as a whole, so that a window is as loud as it is in the recording.
        prepared = self._prepare([samples], sampling_rate=self.rate, return_tensors="pt")["input_values"]
        window, context = (round(seconds / self.hop_s) for seconds in (WINDOW_S, CONTEXT_S))
        if frames <= window + 2 * context:
            return self._of_window(prepared)
        found = []
        for first in range(0, frames, window):
            low, high = max(0, first - context), min(frames, first + window + context)
            part = self._of_window(prepared[:, low * self._hop : (high - 1) * self._hop + self._width])
            found.append(part[first - low : first - low + window])
        return np.concatenate(found)

    def _of_window(self, prepared: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            logits = self._model(prepared.to(self._device)).logits[0].float()
        return torch.log_softmax(logits, -1).cpu().numpy()

    def provenance(self) -> dict[str, object]:
        versions = {name: version(name) for name in ("transformers", "torch", "torchaudio")}
        return {"model": self.name, "weights_sha256": self._sha256, "versions": versions}


@dataclass(frozen=True)
class Aligned:
    """Where words were found, in seconds from the first frame.

    Attributes:
        start, end: of the first and the last spelled token.
        score: 0 to 1, the geometric mean of the tokens' probabilities.
    """

    start: float
    end: float
    score: float


def align(emissions: np.ndarray, tokens: Sequence[int], blank: int, hop_s: float) -> Aligned | None:
    """The most probable place of tokens, by `torchaudio.functional.forced_align` with a column for `STAR`.

    Args:
        emissions: float32 (frames, columns), log probabilities.
        tokens: columns, and `STAR` for anything, with probability 1 in every frame; not only `STAR`.
        blank: column of the blank.
        hop_s: seconds per frame.

    Returns:
        None if there are fewer frames than the tokens need.
    """
    frames, star = emissions.shape
    numbers = [star if token == STAR else token for token in tokens]
    if frames < len(numbers) + sum(a == b for a, b in zip(numbers, numbers[1:], strict=False)):
        return None
    wide = torch.from_numpy(np.concatenate([emissions, np.zeros((frames, 1), np.float32)], 1)).float()
    path, scores = torchaudio.functional.forced_align(wide[None], torch.tensor([numbers]), blank=blank)
    spans = [one for one in torchaudio.functional.merge_tokens(path[0], scores[0], blank) if one.token != star]
    score = math.exp(min(0.0, float(np.mean([one.score for one in spans]))))
    return Aligned(spans[0].start * hop_s, spans[-1].end * hop_s, score)
