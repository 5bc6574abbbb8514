"""Tiny untrained text models of several families with a tokenizer, as folders in the format of transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

WIDTH, LAYERS, POSITIONS = 32, 2, 96
TEXTS = ["Hello.", "What do you want from me, my day?", "I am so happy to see you! " * 3, "", "worst", "naïve — ok"]
LONG = "I am so happy to see you! " * 40
MOST = POSITIONS - 4  # the tokenizers' longest input
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
# Settings of the configuration besides sizes.
DECODERS: dict[str, dict[str, object]] = {
    "gpt2": {},
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5},
}
ENCODERS: dict[str, dict[str, object]] = {
    "bert": {},
    "roberta": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}
# Without a padding token, as their tokenizers are; Llama's and Gemma's begin with <s>.
WITHOUT_PADDING, BEGIN = ("gpt2", "llama", "mistral"), ("llama", "mistral", "gemma", "gemma2")


def make_text_model(folder: Path, family: str, texts: Iterable[str], layers: int = LAYERS, dtype=None, **more) -> Path:
    """Writes a model of a family of `DECODERS` or `ENCODERS`, and a byte-level tokenizer fitted on `texts`.

    Args:
        folder: target folder; created if necessary.
        layers: number of layers.
        dtype: of the weights; None for float32.
        more: entries of the configuration.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    special = {name: token for name, token in SPECIAL.items() if name != "pad_token" or family not in WITHOUT_PADDING}
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, 400, special_tokens=list(special.values()), show_progress=False)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    if family in ENCODERS:
        tokenizer.post_processor = TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", ids)
    elif family in BEGIN:
        tokenizer.post_processor = TemplateProcessing("<s> $A", "<s> $A <s> $B", ids)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, model_max_length=POSITIONS - 4, **special)
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": len(fast),
            "hidden_size": WIDTH,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "intermediate_size": 2 * WIDTH,
            "max_position_embeddings": POSITIONS,
            "initializer_range": 0.3,  # so that what is seen matters
            "pad_token_id": fast.pad_token_id,
            "bos_token_id": fast.bos_token_id,
            "eos_token_id": fast.eos_token_id,
            "cls_token_id": fast.bos_token_id,
            "sep_token_id": fast.eos_token_id,
            **{**DECODERS, **ENCODERS}.get(family, {}),
            **more,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config, dtype=dtype or torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def tokens(folder: Path, text: str, *more: str) -> list[int]:
    """The ids of a text, or of a pair, special tokens included."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(text, *more)["input_ids"]


def states(folder: Path, ids: list[int], dtype=None) -> np.ndarray:
    """transformers' own last hidden state, float32 (tokens, dim), of one input without padding."""
    import torch
    from transformers import AutoModel

    with torch.no_grad():
        model = AutoModel.from_pretrained(folder, dtype=dtype or torch.float32).eval()
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].float().numpy()
