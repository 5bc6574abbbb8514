"""Fine-tuning of a text model as a classifier of utterances, before its features are extracted.

The recipe is that of the field's RoBERTa features (COSMIC, feature-extraction: fairseq, task sentence_prediction): one
utterance without context, a linear-tanh-linear head on `<s>`, Adam with decoupled weight decay, linear warm-up and
decay. The learning rate decays over epochs * batches updates; fairseq drops an incomplete last batch.

Decoders, context and adapters are further choices: see `Recipe`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...toolkit.base.device import to_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.extras import require_extra
from ...toolkit.base.words import counted
from ..encoders.text.input_rule import Encoded, InputRule, give_padding
from ..encoders.text.label_words import LabelWords
from ..encoders.text.loading import load_config, load_pretrained, longest_input
from ..encoders.text.prompts import Prompt
from ..encoders.weights import DTYPES, checksum
from .adapters import with_adapters
from .decoders import is_decoder
from .epochs import check_out
from .loop import ADAPTERS_LR, Learner, TuningRecipe, fine_tune
from .processes import Processes, launched
from .texts import Texts, held_out_in_words, read_texts

__all__ = ["OBJECTIVES", "Recipe", "Texts", "finetune", "read_texts"]

OBJECTIVES = ("classes", "label")
# Values that differ between corpora; other corpora use MELD's.
_RECIPES = {"iemocap": {"lr": 1e-6, "dropout": 0.2}, "meld": {"lr": 1e-5, "dropout": 0.1}}
# Names of the dropout settings of different encoders, for hidden states and for attention.
_DROPOUT = ("hidden_dropout_prob", "dropout")
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
_HEADS = ("classifier", "score", "classification_head", "pre_classifier")
_PROMPT = "emotion"  # of the objective label, if none is given


@dataclass(frozen=True)
class Recipe(TuningRecipe):
    """Hyperparameters. `lr` and `dropout` depend on the corpus if None; `micro_batch` is the batch in memory.

    Attributes:
        context: number of preceding turns that the model sees.
        text_prompt: name or file of the instruction that the utterance is put into; None for the utterance itself.
        objective: "classes", a classification head; "label", in which a decoder says the class as its next word. None
            is "label" for decoders and "classes" for encoders.
    """

    context: int = 0
    text_prompt: str | None = None
    objective: str | None = None

    LATER: ClassVar[tuple[str, ...]] = (*TuningRecipe.LATER, "context", "text_prompt", "objective")

    def shown(self) -> dict[str, Any]:
        """As a record has it; a prompt by the name of its file, wherever that is."""
        found = super().shown()
        return found | ({"text_prompt": Path(self.text_prompt).name} if self.text_prompt else {})

    def for_corpus(self, corpus: str) -> Recipe:
        """This recipe with the corpus's values filled in; adapters learn at `ADAPTERS_LR`."""
        own = dict(_RECIPES["iemocap" if "iemocap" in corpus.lower() else "meld"])
        if self.lora:
            own["lr"] = ADAPTERS_LR
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})


def finetune(
    source: Path,
    text_model: str,
    out: Path,
    recipe: Recipe = Recipe(),
    device: str = "auto",
    notify: Callable[[str], None] = print,
    log_json: bool = False,
    overwrite: bool = False,
) -> dict[str, object]:
    """Trains a text model on a corpus's training split and writes the epoch that is best on its validation split.

    Args:
        source: manifest or feature store.
        text_model: hub name or folder, as for `TextEncoder`.
        out: output folder, which `--text-model` accepts: model, tokenizer, metrics.jsonl with a line for each epoch,
            and finetune.yaml, the record of the training.
        recipe: the hyperparameters.
        device: auto, cpu, cuda, cuda:N or mps.
        notify: called with a line for each epoch.
        log_json: write progress as JSON lines.
        overwrite: replace an earlier training in `out`; other files there are kept.

    Returns:
        The line of metrics.jsonl of the selected epoch.

    Raises:
        UserError: `out` is not empty, choices that do not go together, texts or model cannot be loaded, a loss that is
            not finite, too little memory, unfinished work with other options, or an interruption. The state is kept in
            OUT.partial after each epoch, and the same call resumes from there with the same result.
    """
    inputs = [source, Path(text_model)]
    check_out(out, inputs, overwrite)
    recipe = _checked(recipe, text_model)
    texts = read_texts(source, recipe.context)
    recipe = recipe.for_corpus(texts.corpus)

    def make(processes: Processes, folder: Path) -> Learner:
        kind = _Labels if recipe.objective == "label" else _Classes
        return kind(texts, text_model, recipe, processes.device)

    return fine_tune("finetune-text", inputs, out, recipe, device, make, notify, log_json, overwrite)


def _checked(recipe: Recipe, text_model: str) -> Recipe:
    """The recipe with its objective chosen, after everything that can be refused before a model is loaded.

    Raises:
        UserError: choices that do not go together, or a package that is missing.
    """
    recipe.check()
    if recipe.device_map:
        require_extra("--device-map", "accelerate", "llm")
        if launched():
            raise UserError("--device-map: spreads one process over the GPUs; leave it out with several processes")
    decoder = is_decoder(load_config(text_model))
    objective = recipe.objective or ("label" if decoder else "classes")
    if objective not in OBJECTIVES:
        raise UserError(f"--objective {objective}: choose from {', '.join(OBJECTIVES)}")
    if objective == "label" and not decoder:
        raise UserError(
            f"--objective label: {text_model} is an encoder, which does not continue a text; use --objective classes"
        )
    prompt = recipe.text_prompt or (_PROMPT if objective == "label" else None)
    if decoder and recipe.context and prompt is None:
        raise UserError("--context: a decoder with a classification head needs a prompt for it; give --text-prompt")
    if prompt is not None:
        template = Prompt.load(prompt).template
        if recipe.context and "{context}" not in template:
            raise UserError(f"--context {recipe.context}: the prompt {prompt} does not contain {{context}}")
    return replace(recipe, objective=objective, text_prompt=prompt)


class _TextLearner(Learner):
    """What both objectives share: the texts as token ids, the model with its adapters, and their record."""

    def __init__(
        self, texts: Texts, text_model: str, recipe: Recipe, device: torch.device, auto_class: Any, **config: object
    ) -> None:
        self.texts, self.recipe = texts, recipe
        self.source = Path(text_model).name if Path(text_model).is_dir() else text_model
        dropout = {_DROPOUT: recipe.dropout, _ATTENTION_DROPOUT: recipe.attention_dropout}
        # With adapters the frozen weights may be bfloat16; weights that are trained stay float32, since their updates
        # are smaller than what bfloat16 can tell apart, and only the products are in bfloat16.
        self.tokenizer, plain = load_pretrained(
            text_model,
            auto_class,
            dropout,
            dtype=DTYPES[recipe.precision] if recipe.lora else torch.float32,
            device_map="auto" if recipe.device_map else None,
            whole=recipe.objective == "label",
            **config,
        )
        give_padding(self.tokenizer, plain.config)
        self.tokenizer.padding_side = "right"
        self.max_tokens = longest_input(self.tokenizer, plain.config)
        if recipe.device_map:
            _refuse_offloaded(plain)  # before its numbers are read, which are not there then
        encoder = plain.base_model.state_dict()
        self.before = checksum({k: v for k, v in encoder.items() if not k.startswith("pooler.")})
        if not recipe.device_map:
            plain.to(device)
        self.device = plain.device
        self.config = plain.config
        kind = "CAUSAL_LM" if recipe.objective == "label" else "SEQ_CLS"
        self.model = with_adapters(plain, recipe.lora, kind, _HEADS) if recipe.lora else plain
        prompt = Prompt.load(recipe.text_prompt) if recipe.text_prompt else None
        self.rule = InputRule(recipe.context, prompt, tuple(texts.labels))
        self.labels = {split: texts.splits[split][1] for split in ("train", "val")}

    def encode(self, limit: int) -> None:
        """Turns the texts into token ids, at most `limit`."""
        turns = {split: self.texts.turns[split] for split in self.labels}
        self.encoded = {
            split: [self.rule.encode(self.tokenizer, turn, limit) for turn in own] for split, own in turns.items()
        }
        ids = {split: [one.ids for one in own] for split, own in self.encoded.items()}
        self.fingerprint = {
            "weights": self.before,
            "utterances": [ids, [self.labels[split].tolist() for split in ids]],
        }

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def summary(self) -> list[str]:
        """Data, model and hyperparameters in two lines, for the user."""
        r, n = self.recipe, {split: len(own) for split, own in self.labels.items()}
        more = f", prompt {self.rule.prompt.name}" if self.rule.prompt else ""
        more += f", {r.context} turns of context" if r.context else ""
        more += f", adapters of rank {r.lora}" if r.lora else ""
        more += f", {r.precision}" if r.precision != "float32" else ""
        cut = sum(one.cut > 0 for own in self.encoded.values() for one in own)
        return [
            f"{self.texts.corpus}: {n['train']} training and {counted(n['val'], 'validation utterance')}, "
            f"{counted(len(self.texts.labels), 'label')}{held_out_in_words(self.texts.held_out)}",
            f"{self.source} on {self.device}: {counted(r.epochs, 'epoch')}, batch {r.batch}, lr {r.lr:g}, "
            f"dropout {r.dropout:g}, seed {r.seed}{more}",
            *([f"{counted(cut, 'utterance')} cut to the {self.max_tokens} tokens of the model"] if cut else []),
        ]

    def record(self) -> dict[str, object]:
        given = self.rule.record()
        return {
            "model": self.source,
            "weights_sha256": self.before,
            "objective": self.recipe.objective,
            **({"input": given} if given else {}),
            "corpus": self.texts.corpus,
            "labels": self.texts.labels,
            "utterances": {split: len(own) for split, own in self.labels.items()},
            "held_out": self.texts.held_out,
            "dropout_set": {
                name: getattr(self.config, name) for name in _DROPOUT + _ATTENTION_DROPOUT if hasattr(self.config, name)
            },
            "max_tokens": self.max_tokens,
        }


class _Classes(_TextLearner):
    """A classification head on the model: at the first token of encoders, at the last one of decoders."""

    def __init__(self, texts: Texts, text_model: str, recipe: Recipe, device: torch.device) -> None:
        from transformers import AutoModelForSequenceClassification

        labels = texts.labels
        super().__init__(
            texts,
            text_model,
            recipe,
            device,
            AutoModelForSequenceClassification,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
        self.encode(self.max_tokens)

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        logits = self._logits([self.encoded["train"][i] for i in rows])
        labels = to_device(self.labels["train"][rows], logits.device)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def scores(self, rows: range) -> torch.Tensor:
        return self._logits(self.encoded["val"][rows.start : rows.stop])

    def _logits(self, batch: Sequence[Encoded]) -> torch.Tensor:
        """(batch, labels)."""
        padded = self.tokenizer.pad([one.inputs for one in batch], return_tensors="pt")
        return self.model(**{name: to_device(x, self.device) for name, x in padded.items()}).logits


class _Labels(_TextLearner):
    """A decoder that says the class after the prompt."""

    def __init__(self, texts: Texts, text_model: str, recipe: Recipe, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(texts, text_model, recipe, device, AutoModelForCausalLM)
        self.words = LabelWords(self.tokenizer, texts.labels)
        self.encode(self.max_tokens - self.words.longest)
        self.fingerprint = {**self.fingerprint, "label_words": self.words.tokens}

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        prompts = self._padded([self.encoded["train"][i] for i in rows])
        return self.words.loss(self.model, prompts, self.labels["train"][rows].tolist())

    def scores(self, rows: range) -> torch.Tensor:
        return self.words.log_likelihoods(self.model, self._padded(self.encoded["val"][rows.start : rows.stop]))

    def _padded(self, batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        padded = self.words.padded([one.ids for one in batch])
        return {name: to_device(x, self.device) for name, x in padded.items()}

    def record(self) -> dict[str, object]:
        return {**super().record(), "label_tokens": dict(zip(self.texts.labels, self.words.tokens, strict=True))}


def _refuse_offloaded(model: Any) -> None:
    """Raises a UserError if a part of a spread model is outside the GPUs, where it could not be trained."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise UserError("--device-map: the model is larger than the GPUs; add --precision bfloat16 and --lora 16")
