"""A small text encoder generated locally, so that the demo needs no download: an untrained RoBERTa with two layers.

Untrained is sufficient: averaged random token vectors distinguish which words an utterance contains, and the demo's
words express emotion. Real corpora need a trained encoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

HIDDEN, VOCABULARY, MAX_TOKENS = 128, 1000, 128


def make_text_encoder(folder: Path, texts: Iterable[str], seed: int = 0, layers: int = 2) -> Path:
    """Writes an untrained RoBERTa with a tokenizer fitted on `texts` to `folder`, in the format of transformers.

    Args:
        folder: target folder; created if necessary.
        texts: transcripts of the training split.
        seed: seed of the random weights.
        layers: number of layers.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    special = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, VOCABULARY, special_tokens=list(special.values()), show_progress=False)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, cls_token="<s>", sep_token="</s>", model_max_length=MAX_TOKENS, **special
    )
    config = RobertaConfig(
        vocab_size=len(fast),
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=MAX_TOKENS + 2,
        pad_token_id=fast.pad_token_id,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RobertaModel(config, add_pooling_layer=False)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
