"""Text features: a transformers encoder, one pooled vector for each utterance, or four."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from extract.hub import hub_unreachable
from extract.weights import checksum
from toolkit.errors import UserError

POOLINGS = ("mean", "cls", "last4", "last4-mean")
_LAYERS = ("last", "second-last", "third-last", "fourth-last")
# Padded tokens in a batch: enough to keep the matrix products busy, little enough for small memories.
_BATCH_TOKENS = 4096


class TextEncoder:
    """Any encoder that transformers' `AutoModel` loads.

    Args:
        name_or_dir: hub name (e.g. "roberta-large") or a folder that holds model and tokenizer.
        pooling: "mean" over the utterance's tokens, or "cls", the first token's vector, of the last layer; "last4", the
            first token's vectors of the last four layers, four matrices NAME-1 (last layer) to NAME-4 (fourth-last),
            which is what the field's RoBERTa pickles hold (COSMIC, feature-extraction); "last4-mean", their mean.
        device: where it runs, in float32.

    Raises:
        UserError: the model is neither on this machine nor to be had from the hub, or has too few layers.
    """

    modality = "text"

    def __init__(self, name_or_dir: str, pooling: str = "mean", device: torch.device | str = "cpu"):
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        self.source, self.pooling, self.device = name_or_dir, pooling, torch.device(device)
        self.name = Path(name_or_dir).name if Path(name_or_dir).is_dir() else name_or_dir
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        offline = Path(name_or_dir).is_dir() or hub_unreachable()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_dir, local_files_only=offline)
            self._model, loading = AutoModel.from_pretrained(
                name_or_dir, dtype=torch.float32, local_files_only=offline, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            reason = "the hub cannot be reached" if offline else " ".join(str(error).split())[:160]
            if Path(name_or_dir).is_dir():
                reason = f"the folder lacks a model or a tokenizer: {' '.join(str(error).split())[:100]}"
            raise UserError(
                f"text model {name_or_dir!r} is not on this machine: connect to the Hugging Face hub, or give a folder "
                f"that holds model and tokenizer with --text-model DIR ({reason})"
            ) from None
        self._model.pooler = None  # unused here, and drawn at random where the checkpoint has none
        if lacking := [key for key in loading["missing_keys"] if not key.startswith("pooler.")]:
            raise UserError(f"text model {name_or_dir!r}: its weights lack {sorted(lacking)[0]!r}, which would be random numbers")
        # Without its files transformers builds a tokenizer that knows its special tokens and not one word.
        if len(self._tokenizer) <= len(self._tokenizer.all_special_tokens):
            raise UserError(f"text model {name_or_dir!r}: no tokenizer files beside the model; add tokenizer.json")
        if len(self._tokenizer) > self._model.config.vocab_size:
            raise UserError(
                f"text model {name_or_dir!r}: the tokenizer knows {len(self._tokenizer)} tokens, the model "
                f"{self._model.config.vocab_size}; they do not belong together"
            )
        layers = getattr(self._model.config, "num_hidden_layers", 0)
        if pooling.startswith("last4") and layers < 4:
            raise UserError(f"text model {name_or_dir!r}: has {layers} layers; --pooling {pooling} needs 4, take cls or mean")
        self._sha256 = checksum(self._model.state_dict())
        self._model.eval().to(self.device)
        limits = [self._tokenizer.model_max_length]
        positions = getattr(self._model.config, "max_position_embeddings", None)
        if positions:  # RoBERTa's positions begin after its padding index
            padding = self._model.config.pad_token_id or 0
            limits.append(positions - padding - 1 if self._model.config.model_type in _OFFSET_POSITIONS else positions)
        self.max_tokens = int(min(limits))

    @property
    def matrices(self) -> dict[str, dict[str, object]]:
        """Name of each matrix that the encoder gives, and what sets it apart from the others."""
        if self.pooling != "last4":
            return {self.name: {}}
        return {f"{self.name}-{i}": {"layer": layer} for i, layer in enumerate(_LAYERS, 1)}

    @property
    def dim(self) -> int:
        """Columns of one matrix."""
        return int(self._model.config.hidden_size)

    @torch.inference_mode()
    def __call__(
        self, texts: Sequence[str], done: Callable[[int], None] = lambda count: None
    ) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
        """Encodes utterances in batches of like length.

        Args:
            texts: N transcripts.
            done: told how many more utterances are finished.

        Returns:
            float32 (N, matrices * dim), the matrices side by side; N reasons, empty where there is a vector; details
            "tokens" and "tokens_cut" int32 (N,).
        """
        values = np.zeros((len(texts), self.dim * len(self.matrices)), np.float32)
        reasons = ["" if text.strip() else "empty transcript" for text in texts]
        rows = [i for i, reason in enumerate(reasons) if not reason]
        done(len(texts) - len(rows))
        tokens = np.zeros(len(texts), np.int32)
        cut = np.zeros(len(texts), np.int32)
        encoded: dict[int, list[int]] = {}
        for i in rows:
            ids = self._tokenizer(texts[i], truncation=True, max_length=self.max_tokens)["input_ids"]
            whole = len(self._tokenizer(texts[i], verbose=False)["input_ids"]) if len(ids) >= self.max_tokens else len(ids)
            encoded[i], tokens[i], cut[i] = ids, len(ids), whole - len(ids)
        for batch in _batches(sorted(rows, key=lambda i: (len(encoded[i]), i)), encoded):
            padded = self._tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt").to(self.device)
            given = self._model(**padded, output_hidden_states=self.pooling.startswith("last4"))
            values[batch] = self._pool(given, padded["attention_mask"]).float().cpu().numpy()
            done(len(batch))
        for i in rows:
            if not np.isfinite(values[i]).all():
                reasons[i] = "the text encoder gave NaN or infinity"
        return values, reasons, {"tokens": tokens, "tokens_cut": cut}

    def _pool(self, given, mask: torch.Tensor) -> torch.Tensor:
        """The model's output and mask (batch, tokens) to (batch, matrices * dim)."""
        if self.pooling.startswith("last4"):
            first = [hidden[:, 0] for hidden in given.hidden_states[:-5:-1]]
            return torch.cat(first, 1) if self.pooling == "last4" else torch.stack(first).mean(0)
        hidden = given.last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def provenance(self) -> dict[str, object]:
        """What made the features, for the store."""
        return {
            "extractor": "transformers encoder",
            "model": f"{self.name} ({self._model.config.model_type})",
            "weights_sha256": self._sha256,
            "versions": {"transformers": version("transformers"), "torch": torch.__version__},
            "parameters": {
                "pooling": self.pooling, "pooled": _POOLED[self.pooling], "max_tokens": self.max_tokens, "dtype": "float32",
            },
            "device": self.device.type,
        }


# As the store records them.
_POOLED = {
    "mean": "mean over tokens, last layer",
    "cls": "first token, last layer",
    "last4": "first token, each of the last four layers a matrix",
    "last4-mean": "first token, mean of the last four layers",
}
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text"}


def _batches(order: list[int], encoded: dict[int, list[int]]) -> list[list[int]]:
    """Cuts rows, sorted by length, into batches of at most _BATCH_TOKENS padded tokens."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * len(encoded[i]) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches
