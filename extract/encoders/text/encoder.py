"""Text features: a transformers encoder or decoder, with one pooled vector per utterance, or four."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ..finetuned import RECORD
from ..selection import Options
from ..weights import DTYPES, checksum
from .attention import probe
from .inputs import LINES, PAIR, Encoded, Inputs
from .loading import load_pretrained, longest_input
from .placement import check_spread, convert, place
from .pooling import LAYERS, OF_FIRST_TOKEN, RULES, needs_layers, pool
from .prompts import Prompt

# Padded tokens in a batch. On a CPU, 512 are enough for efficient matrix products, and stay in the caches: 4096 took
# 1.7 times as long for roberta-large, half of that for padding (benchmarks/README.md). A GPU needs more to be busy for
# longer than the host takes to launch a batch; 32768 take a few GB in float32 with the models in use (0.5 GB for the
# 4096 hidden units in a layer of roberta-large), and about 2 GB in bfloat16 with a decoder of 7e9 parameters.
_CPU_TOKENS, _GPU_TOKENS = 512, 32_768


def _recorded(path: Path) -> Any:
    """What finetune.yaml says about a fine-tuned encoder."""
    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"text model {path.parent}: {path.name} cannot be read ({one_line(error)})") from None


class TextEncoder(Extractor):
    """Any encoder or decoder that transformers' `AutoModel` loads.

    Args:
        name_or_dir: hub name (e.g. "roberta-large") or a folder with model and tokenizer.
        pooling: for the last layer, "mean" over the utterance's tokens, "cls", the first token's vector, or "last", the
            last token's; "last4", the first token's vectors of the last four layers, in four matrices NAME-1 (last
            layer) to NAME-4 (fourth-last), as in the field's RoBERTa pickles (COSMIC, feature-extraction);
            "last4-mean", their mean. In a decoder the first token sees nothing but itself, so "mean" or "last".
        device: device of the model.
        context: number of preceding utterances of the dialogue that the model gets as context. With K > 0 the input of
            an encoder is the tokenizer's pair of context and utterance, each turn with the speaker's name:
            "<s>Ann: How was it? Bob: Fine.</s></s>Ann: Really?</s>" for RoBERTa, and "<s>Ann: How was it?</s>" without
            context. That of a decoder is a line for each turn, the utterance's last. If the input is too long, whole
            utterances are dropped from the context, the oldest first; the utterance itself is truncated only if it is
            too long by itself. "mean" is then over the tokens of the utterance with its speaker's name, without special
            tokens. Without context it is over all tokens of an encoder, and over those of a decoder but special ones.
        precision: "float32", "tf32", "bfloat16" or "float16"; features are float32. In the last two the model never
            takes more memory than as it is stored, or in float32 if that is less.
        prompt: the model's input is this instruction, filled. "last" is then the instruction's last token, and "mean"
            is over the tokens of the transcript in it.
        describe: what a turn's `described` is about, for the store; "none" if turns have none.
        spread: the model is on all devices of the type of `device`, and where they are too small in the main memory.

    Raises:
        UserError: the model is neither on this machine nor available from the hub, has too few layers, does not fit
            into memory, or what is asked for does not go together.
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
        *,
        prompt: Prompt | None = None,
        describe: str = "none",
        spread: bool = False,
    ):
        from transformers import AutoModel

        self.pooling, self.context, self.precision = pooling, context, precision
        self.prompt, self.describe = prompt, describe
        device, where, dtype = torch.device(device), f"text model {name_or_dir!r}", DTYPES[precision]
        if prompt is not None:
            _check_places(prompt, context, describe)
        if spread:
            check_spread(device)
        self.name = Path(name_or_dir).name if Path(name_or_dir).is_dir() else name_or_dir
        tokenizer, self._model = load_pretrained(
            name_or_dir, AutoModel, dtype=dtype if dtype == torch.float32 else None
        )
        self._model.pooler = None  # unused here, and random if the checkpoint has none
        self._model.config.use_cache = False  # of what would speed up generating; it takes more memory than the model
        self.max_tokens = longest_input(tokenizer, self._model.config)
        layers = getattr(self._model.config.get_text_config(), "num_hidden_layers", 0)
        if needs_layers(pooling) and layers < 4:
            raise UserError(
                f"{where}: has {counted(layers, 'layer')}, but --pooling {pooling} needs 4; use cls or mean"
            )
        finetuned = Path(name_or_dir) / RECORD  # written by `erc-toolkit finetune-text`
        self._finetuned = _recorded(finetuned) if finetuned.is_file() else None
        self._sha256 = checksum(self._model.state_dict(), torch.float32)  # the same for every precision
        most = _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS
        identity = f"text, {pooling}, weights {self._sha256}{', spread' if spread else ''}"
        self._batches = Batches(f"text model {self.name}", "padded tokens", most, device, precision, identity)
        convert(self._model.eval(), dtype)
        self.device = self._batches.device = place(self._model, device, spread)
        self._batches.spread = spread
        behaviour = probe(self._model, tokenizer, self.device, where)
        self.causal, self.dim = behaviour.causal, behaviour.width
        if self.causal and pooling in OF_FIRST_TOKEN:
            raise UserError(
                f"{where}: is a decoder, whose first token sees nothing of the text, so --pooling {pooling} says "
                "nothing; use last or mean"
            )
        self._inputs = Inputs(tokenizer, self.max_tokens, context, self.causal, prompt, where)
        self.wants = Texts(context)
        counts = ("tokens", "tokens_cut", "context", "context_cut")[: 4 if context else 2]
        self.details = dict.fromkeys(counts, np.int32)

    @classmethod
    def build(cls, options: Options, setup: Setup) -> Extractor:
        """The model given with --text-model, or its class probabilities."""
        if options.output == "probs":
            from .classifier import TextClassifier

            return TextClassifier.build(options, setup)
        return cls(
            options.text_model,
            options.pooling,
            setup.device,
            options.text_context,
            setup.precision,
            prompt=None if options.text_prompt is None else Prompt.load(options.text_prompt),
            describe=options.describe,
            spread=options.device_map,
        )

    @property
    def matrices(self) -> dict[str, dict[str, object]]:
        """Name of each matrix that the encoder returns, with the layer if there are several."""
        if self.pooling != "last4":
            return {self.name: {}}
        return {f"{self.name}-{i}": {"layer": layer} for i, layer in enumerate(LAYERS, 1)}

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
        encoded: dict[int, Encoded] = {}
        for i in rows:
            encoded[i] = self._inputs.encode(turns[i])
            reasons[i] = encoded[i].reason
            for name in details:
                details[name][i] = getattr(encoded[i], name)
        done(sum(bool(reasons[i]) for i in rows))
        rows = [i for i in rows if not reasons[i]]
        order = sorted(rows, key=lambda i: (encoded[i].tokens, i))
        inputs = [encoded[i] for i in order]
        for batch, vectors in self._batches.run(
            [one.tokens for one in inputs],
            lambda batch: self._inputs.pad(inputs[batch.start : batch.stop]),
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

    def _vectors(self, padded: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The result of `Inputs.pad`, on the device, to (batch, matrices * dim)."""
        inputs = {name: tensor for name, tensor in padded.items() if name != "own"}
        output = self._model(**inputs, output_hidden_states=needs_layers(self.pooling))
        return pool(self.pooling, output, inputs["attention_mask"], padded.get("own", inputs["attention_mask"]))

    def provenance(self) -> Provenance:
        """How the features are computed, for the store."""
        provenance: Provenance = {
            "extractor": f"transformers {'decoder' if self.causal else 'encoder'}",
            "model": f"{self.name} ({self._model.config.model_type})",
            "weights_sha256": self._sha256,
            "versions": {"transformers": version("transformers"), "torch": torch.__version__},
            "parameters": {
                "pooling": self.pooling,
                "pooling_rule": RULES[self.pooling],
                "max_tokens": self.max_tokens,
                "dtype": self.precision,
                "context": self.context,
                **self._input(),
            },
            "device": self.device.type,
        }
        if self._finetuned:
            provenance["fine_tuning"] = self._finetuned
        return provenance

    def _input(self) -> dict[str, str]:
        """What the model's input is besides the transcript, for the store."""
        found = {}
        if self.prompt is not None:
            found = {"prompt": self.prompt.name, "prompt_sha256": self.prompt.sha256}
        elif self.context:
            found = {"input": LINES if self.causal else PAIR}
        return found | ({"described": self.describe} if self.describe != "none" else {})


def _check_places(prompt: Prompt, context: int, describe: str) -> None:
    """Checks that what is asked for has a place in a prompt, and the other way round.

    Raises:
        UserError: it has none.
    """
    wanted = {"context": context > 0 and "--text-context", "described": describe != "none" and "--describe"}
    for name, flag in wanted.items():
        if flag and not prompt.wants(name):
            raise UserError(f"--text-prompt {prompt.name}: has no {{{name}}}; add it, or leave {flag} out")
    if prompt.wants("labels"):
        raise UserError(f"--text-prompt {prompt.name}: features are of any corpus, so {{labels}} is unknown; remove it")
