"""Audio features: a transformers speech encoder (wav2vec 2.0, HuBERT, WavLM, …), mean over the last layer's frames."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version

import numpy as np
import torch
import torchaudio

from ....toolkit.base.errors import UserError
from ....toolkit.media import library_version
from ..base import AudioSpan, Extracted, Extractor, Provenance, Samples, Setup
from ..batching import Batches
from ..hub import load_transformer, short_name
from ..selection import Options
from ..weights import DTYPES
from .resampling import resample

# Samples in a padded batch, for models that may see padding. A GPU needs more than a minute of audio to be busy for
# longer than the host takes to prepare and launch a batch. With 16 minutes the first layer's output (512 channels, a
# fifth of 16 kHz) still has fewer than 2**31 numbers, which is as far as 32-bit indices reach.
_CPU_SAMPLES, _GPU_SAMPLES = 60 * 16_000, 16 * 60 * 16_000


class AudioModel(Extractor):
    """Any speech encoder of transformers that takes raw waveforms.

    The track is decoded at its own rate and resampled by `torchaudio.functional.resample`, with its defaults, to the
    rate of the model's preprocessor, as is usual with files loaded by torchaudio.

    Args:
        name_or_dir: hub name (e.g. "facebook/wav2vec2-base") or a folder with model and preprocessor.
        device: device of the model.
        precision: "float32", "tf32", "bfloat16" or "float16".
        sequences: keep the frames of the last layer as well.

    Raises:
        UserError: the model cannot be loaded, or does not take waveforms.
    """

    modality = "audio"
    Options = Options
    gives_sequences = True
    wants = Samples(rate=None)

    def __init__(
        self, name_or_dir: str, device: torch.device | str = "cpu", precision: str = "float32", sequences: bool = False
    ):
        from transformers import AutoFeatureExtractor, AutoModel

        self.name, self.device, self.precision = short_name(name_or_dir), torch.device(device), precision
        model, self._prepare, self._sha256 = load_transformer(
            "audio model", "--audio-model", name_or_dir, AutoModel, AutoFeatureExtractor
        )
        if (
            not hasattr(model, "_get_feat_extract_output_lengths")
            or getattr(model, "main_input_name", "") != "input_values"
        ):
            raise UserError(
                f"--audio-model {name_or_dir}: {model.config.model_type} does not take waveforms; use a model such as "
                "wav2vec2, hubert, wavlm or data2vec-audio"
            )
        self._model = model.to(self.device, DTYPES[precision])
        self.rate = int(self._prepare.sampling_rate)
        self.dim = int(self._model.config.hidden_size)
        self.frame_width = self.dim if sequences else 0
        # Models that normalise over the time axis must not see padding; their preprocessor returns no attention mask.
        # With a size of 0, each utterance is a batch.
        padded = bool(getattr(self._prepare, "return_attention_mask", False))
        most = (_CPU_SAMPLES if self.device.type == "cpu" else _GPU_SAMPLES) if padded else 0
        what, identity = f"audio model {self.name}", f"audio, weights {self._sha256}"
        self._batches = Batches(what, "padded samples", most, self.device, precision, identity)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> Extractor:
        """The model given with --audio-model, or its class probabilities."""
        assert options.audio_model is not None
        if options.output == "probs":
            from .classifier import SpeechClassifier

            return SpeechClassifier.build(options, setup)
        return cls(options.audio_model, setup.device, setup.precision, setup.sequences)

    @property
    def hop_s(self) -> float:
        """Time from one frame to the next in seconds."""
        return float(np.prod(self._model.config.conv_stride)) / self.rate

    def utterances(
        self, spans: Sequence[AudioSpan]
    ) -> Iterator[tuple[np.ndarray | None, str, np.ndarray | None, np.ndarray | None]]:
        """For each utterance, in order: float32 (dim,) or None, the reason for None, frames (T, dim) and times (T,)."""
        waves = [self._resampled(span) for span in spans]
        lengths = [self._length(len(wave)) for wave in waves]
        order = sorted((i for i, length in enumerate(lengths) if length >= 1), key=lambda i: (len(waves[i]), i))
        means: dict[int, np.ndarray] = {}
        frames: dict[int, np.ndarray] = {}
        for batch, rows in self._batches.run(
            [len(waves[i]) for i in order],
            lambda batch: self._inputs([waves[order[k]] for k in batch]),
            self._encode,
        ):
            for k, padded in zip(batch, rows, strict=True):
                own = padded[: lengths[order[k]]]
                means[order[k]] = own.mean(0, dtype=np.float64).astype(np.float32)
                if self.frame_width:
                    frames[order[k]] = own.copy()  # not a view, which would keep the batch
        for i, wave in enumerate(waves):
            if i not in means:
                yield None, f"audio too short for {self.name}: {len(wave) / self.rate:.3f} s", None, None
            elif self.frame_width:
                yield means[i], "", frames[i], np.arange(len(frames[i])) * self.hop_s
            else:
                yield means[i], "", None, None

    def extract(self, utterances: Sequence[AudioSpan], done: Callable[[int], None]) -> Iterator[Extracted]:
        """Like `utterances`."""
        return (Extracted(*result) for result in self.utterances(utterances))

    def _resampled(self, span: AudioSpan) -> np.ndarray:
        return resample(span, self.rate).samples

    def _length(self, samples: int) -> int:
        return int(self._model._get_feat_extract_output_lengths(samples))

    def _inputs(self, waves: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The model's inputs (batch, samples) for waveforms at its rate."""
        return dict(self._prepare(list(waves), sampling_rate=self.rate, padding=True, return_tensors="pt"))

    def _encode(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The result of `_inputs`, on the device, to the frames (batch, T, dim), those of padding included."""
        values = inputs["input_values"].to(DTYPES[self.precision])
        with warnings.catch_warnings():  # WavLM mixes types of masks, about which torch warns on each batch
            warnings.simplefilter("ignore", UserWarning)
            return self._model(**{**inputs, "input_values": values}).last_hidden_state

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        return {
            "extractor": "transformers speech encoder",
            "model": f"{self.name} ({self._model.config.model_type})",
            "weights_sha256": self._sha256,
            "versions": {
                "transformers": version("transformers"),
                "torch": torch.__version__,
                "torchaudio": torchaudio.__version__,
                "ffmpeg": library_version(),
            },
            "parameters": {
                "pooling": "mean over frames, last layer",
                "sample_rate_hz": self.rate,
                "frames_per_second": 1 / self.hop_s,
                "resampling": "torchaudio.functional.resample from the track's own rate",
                "channels": "mono mix",
                "dtype": self.precision,
                **({"sequences": "frames of the last layer"} if self.frame_width else {}),
            },
            "device": self.device.type,
        }
