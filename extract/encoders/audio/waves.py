"""Speech encoders on waveforms (wav2vec 2.0, HuBERT, WavLM, data2vec-audio, …): their inputs, states and frames."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ....toolkit.base.errors import UserError

# Types whose only convolutions after the feature encoder are those of one positional layer, before which transformers
# sets the frames of padding to zero, as a convolution's own padding is. In others (data2vec-audio has five such layers,
# Conformer one in each block) padding reaches an utterance's last frames in spite of the attention mask.
_ZERO_PADDED = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")


def masks_padding(prepare: Any, config: Any) -> bool:
    """Whether an utterance's frames are the same with padding after it: the preprocessor gives an attention mask, and
    that is enough for the model.

    Not so with a feature encoder that normalises over time ("group"), nor with an adapter, which has convolutions.
    """
    return (
        bool(getattr(prepare, "return_attention_mask", False))
        and config.model_type in _ZERO_PADDED
        and config.feat_extract_norm == "layer"
        and not getattr(config, "add_adapter", False)
    )


class Piece(NamedTuple):
    """What an encoder sees at once of an utterance: samples start to stop at its rate, and the frames from them."""

    start: int
    stop: int
    frames: int


class Front(Protocol):
    """What `AudioModel` needs to know of a kind of encoder.

    Attributes:
        rate: of the samples, in Hz.
        width: columns of a frame.
        total: number of transformer layers.
        hop_s: time from one frame to the next in seconds.
        shares_batches: whether pieces of different lengths may share a batch.
        notes: parameters of its own for the provenance.
    """

    rate: int
    width: int
    total: int
    hop_s: float
    shares_batches: bool
    notes: Mapping[str, str]

    def cut(self, samples: int) -> list[Piece]:
        """The pieces of an utterance of so many samples; none if it is too short."""
        ...

    def size(self, piece: Piece) -> int:
        """The samples of a piece as the encoder computes it."""
        ...

    def inputs(self, waves: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The model's inputs on the host for the samples of some pieces, each float32 (n,)."""
        ...

    def states(self, inputs: Mapping[str, torch.Tensor], every: bool) -> Sequence[torch.Tensor]:
        """From `inputs` on the device to (batch, T, width) of each state, or of the last one alone.

        T may be larger than the frames of any piece. See `Layers` for what a state is.
        """
        ...


class Waveforms:
    """A `Front` of encoders on raw waveforms, which get an utterance as a whole.

    Args:
        model: the model, on its device.
        prepare: its preprocessor.
        name: name of the model, for messages.
        every: whether the states of all layers will be asked for.

    Raises:
        UserError: the model does not take waveforms, or its layers' frames are not those of its output.
    """

    def __init__(self, model: Any, prepare: Any, name: str, every: bool):
        if (
            not hasattr(model, "_get_feat_extract_output_lengths")
            or getattr(model, "main_input_name", "") != "input_values"
        ):
            raise UserError(
                f"--audio-model {name}: {model.config.model_type} does not take waveforms; use a model such as "
                "wav2vec2, hubert, wavlm, data2vec-audio or whisper"
            )
        self._model, self._prepare = model, prepare
        self.rate = int(prepare.sampling_rate)
        self.width = int(model.config.hidden_size)
        self.total = int(model.config.num_hidden_layers)
        self.hop_s = float(np.prod(model.config.conv_stride)) / self.rate
        masked = bool(getattr(prepare, "return_attention_mask", False))
        self.shares_batches = masks_padding(prepare, model.config)
        # Such models once shared batches, and their features depended on the batch.
        self.notes: Mapping[str, str] = {"batches": "one utterance each"} if masked and not self.shares_batches else {}
        if every:
            self._check_states(name)

    def _check_states(self, name: str) -> None:
        """Tries on half a second of silence whether each state has the frames of the output: SEW's layers work on
        fewer, and an adapter after the layers leaves fewer.
        """
        silence = torch.zeros(1, self.rate // 2, device=self._model.device, dtype=self._model.dtype)
        with torch.inference_mode():
            states = self.states({"input_values": silence}, True)
        if len(states) != self.total + 1 or any(state.shape != states[-1].shape for state in states):
            raise UserError(
                f"--audio-model {name}: the layers of {self._model.config.model_type} have other frames than its "
                "output; use --layers last"
            )

    def cut(self, samples: int) -> list[Piece]:
        frames = int(self._model._get_feat_extract_output_lengths(samples))
        return [Piece(0, samples, frames)] if frames >= 1 else []

    def size(self, piece: Piece) -> int:
        return piece.stop - piece.start

    def inputs(self, waves: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        return dict(self._prepare(list(waves), sampling_rate=self.rate, padding=True, return_tensors="pt"))

    def states(self, inputs: Mapping[str, torch.Tensor], every: bool) -> Sequence[torch.Tensor]:
        return states_of(run(self._model, inputs, self._model.dtype, output_hidden_states=every), every)


def run(model: Any, inputs: Mapping[str, torch.Tensor], dtype: torch.dtype, **options: object) -> Any:
    """A speech model's output for inputs whose real numbers are converted to `dtype`."""
    typed = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    with warnings.catch_warnings():  # WavLM mixes types of masks, about which torch warns on each batch
        warnings.simplefilter("ignore", UserWarning)
        return model(**typed, **options)


def states_of(output: Any, every: bool) -> Sequence[torch.Tensor]:
    """The states of a model's output, the last one being its `last_hidden_state`."""
    return [*output.hidden_states[:-1], output.last_hidden_state] if every else [output.last_hidden_state]
