"""Text features: a transformers encoder, with one pooled vector per utterance, or four."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....toolkit.base.errors import UserError, one_line
from ....toolkit.base.reading.plain_yaml import load_yaml
from ....toolkit.base.words import counted
from ..base import Extracted, Extractor, Provenance, Setup, Texts, Turn
from ..batching import Batches
from ..selection import Options
from ..weights import DTYPES, checksum
from .loading import load_pretrained, longest_input

_LAYERS = ("last", "second-last", "third-last", "fourth-last")
# Padded tokens in a batch. On a CPU, 4096 are enough for efficient matrix products. A GPU needs more to be busy for
# longer than the host takes to launch a batch; 32768 take a few GB in float32 with the models in use (0.5 GB for the
# 4096 hidden units in a layer of roberta-large).
_CPU_TOKENS, _GPU_TOKENS = 4096, 32_768


def _recorded(path: Path) -> Any:
    """What finetune.yaml says about a fine-tuned encoder."""
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"text model {path.parent}: {path.name} cannot be read ({one_line(error)})") from None


class TextEncoder(Extractor):
    """Any encoder that transformers' `AutoModel` loads.

    Args:
        name_or_dir: hub name (e.g. "roberta-large") or a folder with model and tokenizer.
        pooling: for the last layer, "mean" over the utterance's tokens or "cls", the first token's vector; "last4", the
            first token's vectors of the last four layers, in four matrices NAME-1 (last layer) to NAME-4 (fourth-last),
            as in the field's RoBERTa pickles (COSMIC, feature-extraction); "last4-mean", their mean.
        device: device of the model.
        context: number of preceding utterances of the dialogue that the model gets as context. With K > 0 the model's
            input is the tokenizer's pair of context and utterance, each turn with the speaker's name:
            "<s>Ann: How was it? Bob: Fine.</s></s>Ann: Really?</s>" for RoBERTa, and "<s>Ann: How was it?</s>" without
            context. If the input is too long, whole utterances are dropped from the context, the oldest first; the
            utterance itself is truncated only if it is too long by itself. "mean" is then over the tokens of the second
            part, the utterance with its speaker's name, without special tokens.
        precision: "float32", "tf32", "bfloat16" or "float16"; features are float32.

    Raises:
        UserError: the model is neither on this machine nor available from the hub, or has too few layers.
    """

    modality = "text"
    Options = Options

    def __init__(
        self,
        name_or_dir: str,
        pooling: str = "mean",
        device: torch.device | str = "cpu",
        context: int = 0,
        precision: str = "float32",
    ):
        from transformers import AutoModel

        self.pooling, self.device, self.context = pooling, torch.device(device), context
        self.name = Path(name_or_dir).name if Path(name_or_dir).is_dir() else name_or_dir
        self._tokenizer, self._model = load_pretrained(name_or_dir, AutoModel)
        self._model.pooler = None  # unused here, and random if the checkpoint has none
        self.max_tokens = longest_input(self._tokenizer, self._model.config)
        if context and not self._tokenizer.is_fast:
            raise UserError(f"text model {name_or_dir!r}: --text-context needs a fast tokenizer, and it has none")
        self._tokenizer.padding_side = "right"
        layers = getattr(self._model.config, "num_hidden_layers", 0)
        if pooling.startswith("last4") and layers < 4:
            raise UserError(
                f"text model {name_or_dir!r}: has {counted(layers, 'layer')}, but --pooling {pooling} needs 4; use cls "
                "or mean"
            )
        finetuned = Path(name_or_dir) / "finetune.yaml"  # written by `erc-toolkit finetune-text`
        self._finetuned = _recorded(finetuned) if finetuned.is_file() else None
        self._sha256 = checksum(self._model.state_dict())
        self.precision = precision
        most = _CPU_TOKENS if self.device.type == "cpu" else _GPU_TOKENS
        identity = f"text, {pooling}, weights {self._sha256}"
        self._batches = Batches(f"text model {self.name}", "padded tokens", most, self.device, precision, identity)
        self._model.eval().to(self.device, DTYPES[precision])
        self.dim, self.wants = int(self._model.config.hidden_size), Texts(context)
        counts = ("tokens", "tokens_cut", "context", "context_cut")[: 4 if context else 2]
        self.details = dict.fromkeys(counts, np.int32)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> Extractor:
        """The model given with --text-model, or its class probabilities."""
        if options.output == "probs":
            from .classifier import TextClassifier

            return TextClassifier.build(options, setup)
        return cls(options.text_model, options.pooling, setup.device, options.text_context, setup.precision)

    @property
    def matrices(self) -> dict[str, dict[str, object]]:
        """Name of each matrix that the encoder returns, with the layer if there are several."""
        if self.pooling != "last4":
            return {self.name: {}}
        return {f"{self.name}-{i}": {"layer": layer} for i, layer in enumerate(_LAYERS, 1)}

    def __call__(
        self, texts: Sequence[str | Turn], done: Callable[[int], None] = lambda count: None
    ) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
        """Encodes utterances in batches of similar length.

        Args:
            texts: N transcripts; `Turn`s if the encoder uses context.
            done: called with the number of utterances just finished.

        Returns:
            float32 (N, matrices * dim), the matrices side by side; N reasons, empty where there is a vector; details
            int32 (N,): "tokens" in the input, "tokens_cut" from the utterance, and with context "context" and
            "context_cut", the numbers of preceding utterances used and dropped.
        """
        values = np.zeros((len(texts), self.dim * len(self.matrices)), np.float32)
        turns = [text if isinstance(text, Turn) else Turn(text) for text in texts]
        reasons = ["" if turn.text.strip() else "empty transcript" for turn in turns]
        rows = [i for i, reason in enumerate(reasons) if not reason]
        done(len(texts) - len(rows))
        details = {name: np.zeros(len(turns), kind) for name, kind in self.details.items()}
        encoded: dict[int, _Encoded] = {}
        for i in rows:
            encoded[i] = self._encode(turns[i])
            for name in details:
                details[name][i] = getattr(encoded[i], name)
        order = sorted(rows, key=lambda i: (encoded[i].tokens, i))
        inputs = [encoded[i] for i in order]
        for batch, vectors in self._batches.run(
            [one.tokens for one in inputs],
            lambda batch: self._padded(inputs[batch.start : batch.stop]),
            self._vectors,
        ):
            values[order[batch.start : batch.stop]] = vectors
            done(len(batch))
        for i in rows:
            if not np.isfinite(values[i]).all():
                reasons[i] = "the text encoder returned NaN or infinity"
        return values, reasons, details

    def extract(self, utterances: Sequence[Turn], done: Callable[[int], None]) -> Iterator[Extracted]:
        """Like calling the encoder, with one result per utterance."""
        values, reasons, details = self(utterances, done)
        for i, reason in enumerate(reasons):
            row = {name: int(column[i]) for name, column in details.items()}
            yield Extracted(None if reason else values[i], reason, details=row)

    def _padded(self, batch: list[_Encoded]) -> dict[str, torch.Tensor]:
        """The model's inputs (batch, tokens), and with context "own", 1 for the utterance's own tokens."""
        padded = dict(self._tokenizer.pad([one.inputs for one in batch], return_tensors="pt"))
        if self.context:
            padded["own"] = torch.zeros_like(padded["attention_mask"])
            for line, one in zip(padded["own"], batch, strict=True):
                line[one.own] = 1
        return padded

    def _vectors(self, padded: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The result of `_padded`, on the device, to (batch, matrices * dim)."""
        inputs = {name: tensor for name, tensor in padded.items() if name != "own"}
        output = self._model(**inputs, output_hidden_states=self.pooling.startswith("last4"))
        return self._pool(output, padded.get("own", inputs["attention_mask"]))

    def _encode(self, turn: Turn) -> _Encoded:
        """A turn as token ids, no longer than the model accepts."""
        text = f"{turn.speaker}: {turn.text.strip()}" if self.context else turn.text
        alone = self._tokenizer(text, truncation=True, max_length=self.max_tokens)
        length = len(alone["input_ids"])
        cut = len(self._tokenizer(text, verbose=False)["input_ids"]) - length if length >= self.max_tokens else 0
        chosen, used = alone, 0
        for first in range(len(turn.before) if not cut else 0):  # the longest context first
            pair = self._tokenizer(" ".join(turn.before[first:]), text, verbose=False)
            if len(pair["input_ids"]) <= self.max_tokens:
                chosen, used = pair, len(turn.before) - first
                break
        own = []
        if self.context:
            own = [k for k, part in enumerate(chosen.sequence_ids(0)) if part == (1 if used else 0)]
        inputs = {key: chosen[key] for key in ("input_ids", "token_type_ids") if key in chosen}
        return _Encoded(inputs, own, len(inputs["input_ids"]), cut, used, len(turn.before) - used)

    def _pool(self, output, mask: torch.Tensor) -> torch.Tensor:
        """The model's output and mask (batch, tokens) to (batch, matrices * dim)."""
        if self.pooling.startswith("last4"):
            first = [hidden[:, 0].float() for hidden in output.hidden_states[:-5:-1]]
            return torch.cat(first, 1) if self.pooling == "last4" else torch.stack(first).mean(0)
        hidden = output.last_hidden_state.float()
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        provenance: Provenance = {
            "extractor": "transformers encoder",
            "model": f"{self.name} ({self._model.config.model_type})",
            "weights_sha256": self._sha256,
            "versions": {"transformers": version("transformers"), "torch": torch.__version__},
            "parameters": {
                "pooling": self.pooling,
                "pooling_rule": _POOLED[self.pooling],
                "max_tokens": self.max_tokens,
                "dtype": self.precision,
                "context": self.context,
                **({"input": _INPUT} if self.context else {}),
            },
            "device": self.device.type,
        }
        if self._finetuned:
            provenance["fine_tuning"] = self._finetuned
        return provenance


_INPUT = "pair of context and utterance, each turn as 'speaker: transcript', turns of the context joined by a space"
# As the store records them.
_POOLED = {
    "mean": "mean over the utterance's tokens, last layer",
    "cls": "first token, last layer",
    "last4": "first token, each of the last four layers a matrix",
    "last4-mean": "first token, mean of the last four layers",
}


@dataclass(frozen=True)
class _Encoded:
    """A turn as the model's input.

    Attributes:
        inputs: the model's inputs by name.
        own: positions of the utterance's own tokens.
        tokens, tokens_cut: number of tokens in the input, and of those truncated from the utterance.
        context, context_cut: number of preceding utterances in the input, and of those dropped.
    """

    inputs: dict[str, list[int]]
    own: list[int]
    tokens: int
    tokens_cut: int
    context: int
    context_cut: int
