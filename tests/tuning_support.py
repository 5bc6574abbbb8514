"""A toy corpus whose classes a tiny model can learn, and tiny untrained models of transformers for it."""

from __future__ import annotations

import random
from pathlib import Path

from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest

WORDS = {"joy": ["happy", "glad"], "anger": ["furious", "mad"], "deep sadness": ["lonely", "cry"]}
FILL = "the a we you they it was so very today".split()


def toy_manifest(folder: Path, count: int = 120) -> Path:
    """A manifest of dialogues of six turns, whose label is told by one word of each; three in four train."""
    rng, utterances = random.Random(0), []
    for i in range(count):
        label = list(WORDS)[i % 3]
        words = [rng.choice(FILL), rng.choice(WORDS[label]), rng.choice(FILL)]
        split = "val" if i // 6 % 4 == 3 else "train"
        utterances.append(
            Utterance(f"u{i}", f"d{i // 6}", i % 6, "Ann Bob".split()[i % 2], " ".join(words), label, split)
        )
    utterances[1] = Utterance("u1", "d0", 1, "Bob", "no label", None, "train")
    write_manifest(Manifest("toy", list(WORDS), folder, utterances), folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def tiny_llama(folder: Path, *, head: bool = True, hidden: int = 32) -> Path:
    """An untrained Llama with a tokenizer that knows the toy corpus and has no padding token, as published ones."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = [" ".join(FILL), " joy anger deep sadness", *(" ".join(w) for w in WORDS.values())] * 3
    words += [
        "Read this conversation.\nAnn: x\nBob: y",
        "In one word, the emotion that Ann shows in the last turn is:",
    ] * 3
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(words, 500, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=128
    )
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (LlamaForCausalLM if head else LlamaModel)(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
