"""Text features: a transformers encoder, one pooled vector for each utterance, or four."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml

from ...toolkit.base.errors import UserError
from .base import Extracted, Extractor, Provenance, Setup, Texts, Turn
from .batching import Batches
from .hub import hub_unreachable
from .selection import Options
from .weights import DTYPES, checksum

_LAYERS = ("last", "second-last", "third-last", "fourth-last")
# Padded tokens in a batch: enough to keep the matrix products busy, little enough for small memories.
_BATCH_TOKENS = 4096


def load_pretrained(
    name_or_dir: str, auto_class: type, either: Mapping[tuple[str, ...], object] | None = None, **config: object
) -> tuple:
    """The tokenizer and the model, in float32, of a hub name or a folder.

    Args:
        auto_class: transformers' AutoModel, or a class that puts a head on it; a head may be new, the encoder may not.
        either: further entries that kinds of models name differently: of each the first name that the model has is set.
        config: entries of the model's configuration to change.

    Raises:
        UserError: they cannot be had, lack weights, or do not belong together.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    offline = Path(name_or_dir).is_dir() or hub_unreachable()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_dir, local_files_only=offline)
        settings = AutoConfig.from_pretrained(name_or_dir, local_files_only=offline, **config)
        for names, value in (either or {}).items():
            if name := next((name for name in names if hasattr(settings, name)), None):
                setattr(settings, name, value)
        model, loading = auto_class.from_pretrained(
            name_or_dir, config=settings, dtype=torch.float32, local_files_only=offline, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        reason = "the hub cannot be reached" if offline else " ".join(str(error).split())[:160]
        if Path(name_or_dir).is_dir():
            reason = f"the folder lacks a model or a tokenizer: {' '.join(str(error).split())[:100]}"
        raise UserError(
            f"text model {name_or_dir!r} is not on this machine: connect to the Hugging Face hub, or give a folder "
            f"that holds model and tokenizer with --text-model DIR ({reason})"
        ) from None
    encoder = "" if model.base_model is model else f"{model.base_model_prefix}."
    lacking = [
        k for k in loading["missing_keys"] if k.startswith(encoder) and not k[len(encoder) :].startswith("pooler.")
    ]
    if lacking:
        raise UserError(
            f"text model {name_or_dir!r}: its weights lack {sorted(lacking)[0]!r}, which would be random numbers"
        )
    # Without its files transformers builds a tokenizer that knows its special tokens and not one word.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"text model {name_or_dir!r}: no tokenizer files beside the model; add tokenizer.json")
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"text model {name_or_dir!r}: the tokenizer knows {len(tokenizer)} tokens, the model "
            f"{model.config.vocab_size}; they do not belong together"
        )
    return tokenizer, model


def longest_input(tokenizer, config) -> int:
    """How many tokens, special ones included, the model reads."""
    limits = [tokenizer.model_max_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions:  # RoBERTa's positions begin after its padding index
        padding = config.pad_token_id or 0
        limits.append(positions - padding - 1 if config.model_type in _OFFSET_POSITIONS else positions)
    return int(min(limits))


class TextEncoder(Extractor):
    """Any encoder that transformers' `AutoModel` loads.

    Args:
        name_or_dir: hub name (e.g. "roberta-large") or a folder that holds model and tokenizer.
        pooling: "mean" over the utterance's tokens, or "cls", the first token's vector, of the last layer; "last4", the
            first token's vectors of the last four layers, four matrices NAME-1 (last layer) to NAME-4 (fourth-last),
            which is what the field's RoBERTa pickles hold (COSMIC, feature-extraction); "last4-mean", their mean.
        device: where it runs.
        context: how many utterances before it in its dialogue the model reads with an utterance. With K > 0 the model's
            input is the tokenizer's pair of the context and the utterance, speakers' names before both:
            "<s>Ann: How was it? Bob: Fine.</s></s>Ann: Really?</s>" for RoBERTa, and "<s>Ann: How was it?</s>" where there
            is no context. What exceeds the model's length is left out of the context, oldest utterance first and each
            as a whole; the utterance itself is cut only where it is too long alone. "mean" is then over the tokens of the
            second half, the utterance with its speaker's name, without special tokens.
        precision: "float32", "bfloat16" or "float16"; features are float32.

    Raises:
        UserError: the model is neither on this machine nor to be had from the hub, or has too few layers.
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
        self._model.pooler = None  # unused here, and drawn at random where the checkpoint has none
        self.max_tokens = longest_input(self._tokenizer, self._model.config)
        if context and not self._tokenizer.is_fast:
            raise UserError(f"text model {name_or_dir!r}: its tokenizer has no fast form, which --text-context needs")
        self._tokenizer.padding_side = "right"
        layers = getattr(self._model.config, "num_hidden_layers", 0)
        if pooling.startswith("last4") and layers < 4:
            raise UserError(
                f"text model {name_or_dir!r}: has {layers} layers; --pooling {pooling} needs 4, take cls or mean"
            )
        finetuned = Path(name_or_dir) / "finetune.yaml"  # `erc-toolkit finetune-text` leaves it beside the weights
        self._finetuned = yaml.safe_load(finetuned.read_text(encoding="utf-8")) if finetuned.is_file() else None
        self._sha256 = checksum(self._model.state_dict())
        self.precision, self._fitting = precision, Batches(f"text model {self.name}")
        self._model.eval().to(self.device, DTYPES[precision])
        self.dim, self.wants = int(self._model.config.hidden_size), Texts(context)
        counts = ("tokens", "tokens_cut", "context", "context_cut")[: 4 if context else 2]
        self.details = dict.fromkeys(counts, np.int32)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> TextEncoder:
        """The model that --text-model names."""
        return cls(options.text_model, options.pooling, setup.device, options.text_context, setup.precision)

    @property
    def matrices(self) -> dict[str, dict[str, object]]:
        """Name of each matrix that the encoder gives, and what sets it apart from the others."""
        if self.pooling != "last4":
            return {self.name: {}}
        return {f"{self.name}-{i}": {"layer": layer} for i, layer in enumerate(_LAYERS, 1)}

    @torch.inference_mode()
    def __call__(
        self, texts: Sequence[str | Turn], done: Callable[[int], None] = lambda count: None
    ) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
        """Encodes utterances in batches of like length.

        Args:
            texts: N transcripts; as `Turn`s where the encoder reads context.
            done: told how many more utterances are finished.

        Returns:
            float32 (N, matrices * dim), the matrices side by side; N reasons, empty where there is a vector; details
            int32 (N,): "tokens" read, "tokens_cut" off the utterance, and with context "context" and "context_cut", the
            earlier utterances that were read and left out.
        """
        values = np.zeros((len(texts), self.dim * len(self.matrices)), np.float32)
        said = [text if isinstance(text, Turn) else Turn(text) for text in texts]
        reasons = ["" if turn.text.strip() else "empty transcript" for turn in said]
        rows = [i for i, reason in enumerate(reasons) if not reason]
        done(len(texts) - len(rows))
        details = {name: np.zeros(len(said), kind) for name, kind in self.details.items()}
        encoded: dict[int, _Encoded] = {}
        for i in rows:
            encoded[i] = self._encode(said[i])
            for name in details:
                details[name][i] = getattr(encoded[i], name)
        for batch in _batches(sorted(rows, key=lambda i: (encoded[i].tokens, i)), encoded):
            values[batch] = self._fitting.array(lambda some: self._vectors([encoded[i] for i in some]), batch)
            done(len(batch))
        for i in rows:
            if not np.isfinite(values[i]).all():
                reasons[i] = "the text encoder gave NaN or infinity"
        return values, reasons, details

    def extract(self, utterances: Sequence[Turn], done: Callable[[int], None]) -> Iterator[Extracted]:
        """As a call, an utterance at a time."""
        values, reasons, details = self(utterances, done)
        for i, reason in enumerate(reasons):
            counted = {name: int(column[i]) for name, column in details.items()}
            yield Extracted(None if reason else values[i], reason, details=counted)

    def _vectors(self, batch: list[_Encoded]) -> np.ndarray:
        """float32 (batch, matrices * dim)."""
        padded = self._tokenizer.pad([one.inputs for one in batch], return_tensors="pt").to(self.device)
        given = self._model(**padded, output_hidden_states=self.pooling.startswith("last4"))
        mask = padded["attention_mask"]
        if self.context:
            mask = torch.zeros_like(mask)
            for line, one in zip(mask, batch, strict=True):
                line[one.own] = 1
        return self._pool(given, mask).float().cpu().numpy()

    def _encode(self, turn: Turn) -> _Encoded:
        """A turn as token ids, no longer than the model reads."""
        text = f"{turn.speaker}: {turn.text.strip()}" if self.context else turn.text
        alone = self._tokenizer(text, truncation=True, max_length=self.max_tokens)
        length = len(alone["input_ids"])
        cut = len(self._tokenizer(text, verbose=False)["input_ids"]) - length if length >= self.max_tokens else 0
        chosen, used = alone, 0
        for first in range(len(turn.before) if not cut else 0):  # first those that leave out least
            pair = self._tokenizer(" ".join(turn.before[first:]), text, verbose=False)
            if len(pair["input_ids"]) <= self.max_tokens:
                chosen, used = pair, len(turn.before) - first
                break
        own = []
        if self.context:
            own = [k for k, part in enumerate(chosen.sequence_ids(0)) if part == (1 if used else 0)]
        inputs = {key: chosen[key] for key in ("input_ids", "token_type_ids") if key in chosen}
        return _Encoded(inputs, own, len(inputs["input_ids"]), cut, used, len(turn.before) - used)

    def _pool(self, given, mask: torch.Tensor) -> torch.Tensor:
        """The model's output and mask (batch, tokens) to (batch, matrices * dim)."""
        if self.pooling.startswith("last4"):
            first = [hidden[:, 0].float() for hidden in given.hidden_states[:-5:-1]]
            return torch.cat(first, 1) if self.pooling == "last4" else torch.stack(first).mean(0)
        hidden = given.last_hidden_state.float()
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def provenance(self) -> Provenance:
        """What made the features, for the store."""
        made: Provenance = {
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
            made["fine_tuning"] = self._finetuned
        return made


_INPUT = "pair of context and utterance, each turn as 'speaker: transcript', turns of the context joined by a space"
# As the store records them.
_POOLED = {
    "mean": "mean over the utterance's tokens, last layer",
    "cls": "first token, last layer",
    "last4": "first token, each of the last four layers a matrix",
    "last4-mean": "first token, mean of the last four layers",
}
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text"}


@dataclass(frozen=True)
class _Encoded:
    """A turn for the model: its inputs, which tokens are the utterance's own, and what was counted."""

    inputs: dict[str, list[int]]
    own: list[int]
    tokens: int
    tokens_cut: int
    context: int
    context_cut: int


def _batches(order: list[int], encoded: dict[int, _Encoded]) -> list[list[int]]:
    """Cuts rows, sorted by length, into batches of at most _BATCH_TOKENS padded tokens."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * encoded[i].tokens > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches
