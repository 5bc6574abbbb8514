"""Audio features: a transformers speech encoder (wav2vec 2.0, HuBERT, WavLM, Whisper's, …), pooled over its frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
import torchaudio

from ....toolkit.base.errors import UserError
from ....toolkit.media import library_version
from ..base import AudioSpan, Extracted, Extractor, Provenance, Samples, Setup
from ..batching import Batches
from ..hub import UNUSED, load_transformer, short_name
from ..selection import AUDIO_POOLINGS, Options
from ..weights import DTYPES
from .layers import Layers
from .pooling import WORDS, pooled, pooled_alone, pooled_width
from .resampling import resample
from .waves import Front, Piece, Waveforms
from .whisper import WhisperWindows

# Samples in a padded batch, for models that may see padding. On a CPU, an utterance of some seconds is as efficient
# alone as with others. A GPU needs more than a minute of audio to be busy for longer than the host takes to prepare and
# launch a batch. With 16 minutes the first layer's output (512 channels, a fifth of 16 kHz) still has fewer than 2**31
# numbers, which is as far as 32-bit indices reach.
_CPU_SAMPLES, _GPU_SAMPLES = 8 * 16_000, 16 * 60 * 16_000
_REAL = "real"  # the input that says which frames are no padding; the others are the model's


class _Item(NamedTuple):
    """A piece of an utterance, with the utterance's number and the piece's samples."""

    row: int
    piece: Piece
    wave: np.ndarray


class AudioModel(Extractor):
    """Any speech encoder of transformers that takes raw waveforms, or Whisper's.

    The track is decoded at its own rate and resampled by `torchaudio.functional.resample`, with its defaults, to the
    rate of the model's preprocessor, as is usual with files loaded by torchaudio. An utterance gets the same vector
    alone and in a batch, up to the rounding of the network's own float32.

    Args:
        name_or_dir: hub name (e.g. "facebook/wav2vec2-base") or a folder with model and preprocessor.
        device: device of the model.
        precision: "float32", "tf32", "bfloat16" or "float16".
        sequences: keep the frames of the chosen layers as well.
        layers: "last", "all", "each", "K" or "I-J", see `Layers.parse`. With "each" the vectors of the layers 0 to N
            follow one another, (N + 1) times `dim / layer_count` columns.
        audio_pooling: one of `selection.AUDIO_POOLINGS`, see `pooling.pooled`; statistics are summed in float64.

    Raises:
        UserError: the model cannot be loaded or takes neither waveforms nor Whisper's windows, it does not have the
            layers, or sequences of each layer are requested.
    """

    modality = "audio"
    Options = Options
    gives_sequences = True
    wants = Samples(rate=None)

    def __init__(
        self,
        name_or_dir: str,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        sequences: bool = False,
        layers: str = "last",
        audio_pooling: str = "mean",
    ):
        from transformers import AutoFeatureExtractor, AutoModel

        if audio_pooling not in AUDIO_POOLINGS:
            raise UserError(f"--audio-pooling {audio_pooling}: choose from {', '.join(AUDIO_POOLINGS)}")
        self.name, self.device, self.precision = short_name(name_or_dir), torch.device(device), precision
        # Whisper's decoder is not used.
        model, prepare, self._sha256 = load_transformer(
            "audio model", "--audio-model", name_or_dir, AutoModel, AutoFeatureExtractor, (*UNUSED, "decoder.")
        )
        self.model_type: str = model.config.model_type
        self._front: Front
        if self.model_type == "whisper":
            self._front = WhisperWindows(model, prepare, name_or_dir, self.device, DTYPES[precision])
        else:
            model = model.to(self.device, DTYPES[precision])
            self._front = Waveforms(model, prepare, name_or_dir, layers != "last")
        self.rate, self.hop_s = self._front.rate, self._front.hop_s
        self.layers, self.pooling = Layers.parse(layers, self._front.total, self.name), audio_pooling
        if self.layers.each and sequences:
            raise UserError("--sequences: not with --layers each; choose one layer or a range, e.g. --layers last")
        self.layer_count = self._front.total + 1 if self.layers.each else 0
        self.dim = pooled_width(self._front.width, audio_pooling) * (self.layer_count or 1)
        self.frame_width = self._front.width if sequences else 0
        # With a size of 0, each utterance is a batch.
        most = (_CPU_SAMPLES if self.device.type == "cpu" else _GPU_SAMPLES) if self._front.shares_batches else 0
        what, identity = f"audio model {self.name}", f"audio, weights {self._sha256}"
        if not self.layers.only_last:  # the states of all layers take memory
            identity += f", layers {self.layers.text}"
        self._batches = Batches(what, "padded samples", most, self.device, precision, identity)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> Extractor:
        """The model given with --audio-model, or its class probabilities."""
        assert options.audio_model is not None
        if options.output == "probs":
            from .classifier import SpeechClassifier

            return SpeechClassifier.build(options, setup)
        return cls(
            options.audio_model,
            setup.device,
            setup.precision,
            setup.sequences,
            options.layers,
            options.audio_pooling,
        )

    def utterances(
        self, spans: Sequence[AudioSpan]
    ) -> Iterator[tuple[np.ndarray | None, str, np.ndarray | None, np.ndarray | None]]:
        """For each utterance, in order: float32 (dim,) or None, the reason for None, frames (T, width) and times."""
        waves = [resample(span, self.rate).samples for span in spans]
        items = [
            _Item(i, piece, wave[piece.start : piece.stop])
            for i, wave in enumerate(waves)
            for piece in self._front.cut(len(wave))
        ]
        items.sort(key=lambda item: (len(item.wave), item.row, item.piece.start))
        vectors, frames = self._vectors(items)
        for i, wave in enumerate(waves):
            if i not in vectors:
                yield None, f"audio too short for {self.name}: {len(wave) / self.rate:.3f} s", None, None
            elif self.frame_width:
                yield vectors[i], "", frames[i], np.arange(len(frames[i])) * self.hop_s
            else:
                yield vectors[i], "", None, None

    def extract(self, utterances: Sequence[AudioSpan], done: Callable[[int], None]) -> Iterator[Extracted]:
        """Like `utterances`."""
        return (Extracted(*result) for result in self.utterances(utterances))

    def _vectors(self, items: Sequence[_Item]) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """For each utterance that has pieces its vector, and its frames if they are requested."""
        vectors: dict[int, np.ndarray] = {}
        frames: dict[int, np.ndarray] = {}
        pieces = Counter(item.row for item in items)
        wide = 1
        if self.layers.each:
            # The frames of all layers are many times the vectors: they are pooled on the device, except for utterances
            # of several windows, which may be in different batches. Those are in batches that are smaller by as much.
            vectors = {
                item.row: row
                for item, row in self._run([item for item in items if pieces[item.row] == 1], 1, self._pooled)
            }
            items, wide = [item for item in items if pieces[item.row] > 1], self.layer_count
        parts: dict[int, dict[int, np.ndarray]] = {}
        for item, row in self._run(items, wide, self._frames):
            mine = parts.setdefault(item.row, {})
            own = row[..., : item.piece.frames, :]
            # A view would keep the batch.
            mine[item.piece.start] = own.copy() if self.frame_width or pieces[item.row] > 1 else own
            if len(mine) < pieces[item.row]:
                continue
            mine = parts.pop(item.row)
            whole = np.concatenate([mine[start] for start in sorted(mine)], -2) if len(mine) > 1 else mine[0]
            vectors[item.row] = pooled_alone(whole, self.pooling)
            if self.frame_width:
                frames[item.row] = whole
        return vectors, frames

    def _run(
        self, items: Sequence[_Item], wide: int, compute: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
    ) -> Iterator[tuple[_Item, np.ndarray]]:
        """Each piece with its row of the result of `compute`; sizes count `wide` times."""
        sizes = [wide * self._front.size(item.piece) for item in items]
        for batch, rows in self._batches.run(sizes, lambda batch: self._inputs([items[k] for k in batch]), compute):
            yield from zip((items[k] for k in batch), rows, strict=True)

    def _inputs(self, items: Sequence[_Item]) -> dict[str, torch.Tensor]:
        """The model's inputs, and bool (batch, T) which frames are no padding, T being those of the longest piece."""
        counts = torch.tensor([item.piece.frames for item in items])
        real = torch.arange(int(counts.max())) < counts[:, None]
        return {**self._front.inputs([item.wave for item in items]), _REAL: real}

    def _states(self, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        real = inputs[_REAL]
        own = {name: tensor for name, tensor in inputs.items() if name != _REAL}
        states = self._front.states(own, not self.layers.only_last)
        return [state[:, : real.shape[1]] for state in states], real

    def _frames(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The result of `_inputs`, on the device, to frames (batch, T, width), or (batch, layers, T, width) for each
        layer; those of padding included.
        """
        states, _ = self._states(inputs)
        return torch.stack(states, 1) if self.layers.each else self.layers.combined(states)

    def _pooled(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same to the layers' vectors (batch, dim)."""
        states, real = self._states(inputs)
        return torch.cat([pooled(state, real, self.pooling) for state in states], 1)

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        parameters: dict[str, Any] = {
            "pooling": f"{WORDS[self.pooling]}, {self.layers.words}",
            "sample_rate_hz": self.rate,
            "frames_per_second": 1 / self.hop_s,
            "resampling": "torchaudio.functional.resample from the track's own rate",
            "channels": "mono mix",
            "dtype": self.precision,
        }
        if self.frame_width:
            parameters["sequences"] = f"frames of the {self.layers.words}"
        if not self.layers.only_last:
            parameters["layers"] = self.layers.text
        if self.layers.each:
            parameters |= {"layer_count": self.layer_count, "layer_dim": self.dim // self.layer_count}
        parameters |= self._front.notes
        return {
            "extractor": "transformers speech encoder",
            "model": f"{self.name} ({self.model_type})",
            "weights_sha256": self._sha256,
            "versions": {
                "transformers": version("transformers"),
                "torch": torch.__version__,
                "torchaudio": torchaudio.__version__,
                "ffmpeg": library_version(),
            },
            "parameters": parameters,
            "device": self.device.type,
        }
