"""Class probabilities of a fine-tuned text model as a feature, so that a graph model can stand on its opinion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ....toolkit.base.errors import UserError
from ..base import Extracted, Extractor, Provenance, Setup, Texts, Turn
from ..batching import Batches
from ..finetuned import TunedFolder
from ..selection import Options
from ..weights import DTYPES, checksum
from .input_rule import Encoded, InputRule, give_padding
from .label_words import LabelWords
from .loading import load_pretrained, longest_input
from .placement import check_spread, convert, place

_CPU_TOKENS, _GPU_TOKENS = 512, 16_384  # padded tokens in a batch


class TextClassifier(Extractor):
    """A text model that `erc-toolkit finetune-text` wrote, and its probabilities of the classes that it learned.

    The input is what the model was trained on: the utterance, with the context and prompt of the folder's record.

    Args:
        folder: of the fine-tuning.
        device: device of the model.
        precision: "float32", "tf32", "bfloat16" or "float16"; probabilities are float32.
        device_map: spread the model over the devices.

    Raises:
        UserError: the folder is none of a fine-tuning, or has no classification head.
    """

    modality = "text"
    Options = Options

    def __init__(
        self,
        folder: str,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        device_map: bool = False,
    ):
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        self.tuned = TunedFolder.read(folder, "--text-model", "finetune-text")
        self.device, self.precision = torch.device(device), precision
        self.says = self.tuned.objective == "label"
        auto_class = AutoModelForCausalLM if self.says else AutoModelForSequenceClassification
        if device_map:
            check_spread(self.device)
        self._tokenizer, self._model = load_pretrained(folder, auto_class, whole=True)
        give_padding(self._tokenizer, self._model.config)
        self._tokenizer.padding_side = "right"
        labels, record = self.tuned.labels, self.tuned.record
        try:
            self._rule = InputRule.of(record.get("input") or {}, labels)
            limit = int(record.get("max_tokens") or longest_input(self._tokenizer, self._model.config))
        except (LookupError, TypeError, ValueError) as error:
            raise self.tuned.damaged(error) from None
        self._words = LabelWords(self._tokenizer, labels) if self.says else None
        self._limit = limit - (self._words.longest if self._words else 0)
        if not self.says:
            self.tuned.check_head(self._model)
        self._sha256 = checksum(self._model.state_dict())
        most = _CPU_TOKENS if self.device.type == "cpu" else _GPU_TOKENS
        identity = f"text probabilities, weights {self._sha256}"
        self.name, self.dim, self.dimension_names = self.tuned.name, len(labels), labels
        self._batches = Batches(f"text model {self.name}", "padded tokens", most, self.device, precision, identity)
        convert(self._model.eval(), DTYPES[precision])
        self.device = self._batches.device = place(self._model, self.device, device_map)
        self._batches.spread = device_map
        self.wants = Texts(self._rule.context)
        self.details = dict.fromkeys(("tokens", "cut", "context", "context_cut"), np.int32)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> TextClassifier:
        """The folder given with --text-model.

        Raises:
            UserError: as above, or options that contradict what the model was trained on.
        """
        made = cls(options.text_model, setup.device, setup.precision, options.device_map)
        trained, prompt = made._rule, made._rule.prompt
        name = prompt.name if prompt is not None else None
        if options.text_context not in (0, trained.context):
            raise UserError(
                f"--text-context {options.text_context}: {options.text_model} was trained with "
                f"{trained.context}, which its probabilities use; leave the option out"
            )
        if options.text_prompt is not None and options.text_prompt.rpartition("/")[2] != name:
            raise UserError(
                f"--text-prompt {options.text_prompt}: {options.text_model} was trained with the prompt "
                f"{name or 'none'}, which its probabilities use; leave the option out"
            )
        if options.describe != "none":
            raise UserError(f"--describe {options.describe}: {options.text_model} was trained without; leave it out")
        return made

    def extract(self, utterances: Sequence[Turn], done: Callable[[int], None]) -> Iterator[Extracted]:
        """Probabilities float32 (classes,) of each utterance that has a text; they are 1 in sum."""
        encoded: dict[int, Encoded] = {
            i: self._rule.encode(self._tokenizer, turn, self._limit)
            for i, turn in enumerate(utterances)
            if turn.text.strip()
        }
        done(len(utterances) - len(encoded))
        order = sorted(encoded, key=lambda i: (len(encoded[i].ids), i))
        found: dict[int, np.ndarray] = {}
        for batch, rows in self._batches.run(
            [len(encoded[i].ids) for i in order],
            lambda batch: self._padded([encoded[order[k]] for k in batch]),
            self._probabilities,
        ):
            found |= {order[k]: row for k, row in zip(batch, rows, strict=True)}
            done(len(batch))
        for i in range(len(utterances)):
            if i not in encoded:
                yield Extracted(None, "empty transcript", details=dict.fromkeys(self.details, 0))
                continue
            one = encoded[i]
            counts = len(one.ids), one.cut, one.context, one.context_cut
            details = dict(zip(self.details, counts, strict=True))
            if np.isfinite(found[i]).all():
                yield Extracted(found[i], details=details)
            else:
                yield Extracted(None, "the text model returned NaN or infinity", details=details)

    def _padded(self, batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        if self._words is not None:
            return self._words.padded([one.ids for one in batch])
        return dict(self._tokenizer.pad([one.inputs for one in batch], return_tensors="pt"))

    def _probabilities(self, padded: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The result of `_padded`, on the device, to (batch, classes)."""
        if self._words is not None:
            scores = self._words.log_likelihoods(self._model, padded)
        else:
            scores = self._model(**padded).logits
        return torch.softmax(scores.float(), -1)

    def provenance(self) -> Provenance:
        """How the probabilities are computed, for the store."""
        parameters: dict[str, Any] = {
            **self.tuned.parameters(),
            "input": self._rule.record() or "the utterance alone",
            "score": "log-likelihood of the label's tokens after the prompt" if self.says else "logit of the head",
            "max_tokens": self._limit,
            "dtype": self.precision,
        }
        return {
            "extractor": "fine-tuned text model, its class probabilities",
            "model": f"{self.name} ({self._model.config.model_type})",
            "weights_sha256": self._sha256,
            "versions": {"transformers": version("transformers"), "torch": torch.__version__},
            "parameters": parameters,
            "device": self.device.type,
            "fine_tuning": self.tuned.record,
        }
