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


def spoken_manifest(folder: Path, name: str = "spoken.jsonl", count: int = 40, seconds: float = 0.4) -> Path:
    """A manifest of tones in WAV files, whose label is told by the pitch; half of the dialogues validate."""
    import wave

    import numpy as np

    rng, utterances = np.random.default_rng(0), []
    (folder / "tones").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pitch = (150, 1500)[i % 2] * float(rng.uniform(0.9, 1.1))
        length = round(16_000 * seconds * float(rng.uniform(0.8, 1.2)))
        tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(length) / 16_000) + rng.normal(0, 0.01, length)
        with wave.open(str(folder / "tones" / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, length, "NONE", ""))
            file.writeframes((32767 * tone.clip(-1, 1)).astype("<i2").tobytes())
        split = "val" if i // 4 % 2 else "train"
        utterances.append(
            Utterance(f"u{i}", f"d{i // 4}", i % 4, "Ann", "hm", ("low", "high")[i % 2], split, media=f"tones/{i}.wav")
        )
    write_manifest(Manifest("tones", ["low", "high"], folder, utterances), folder / name)
    return folder / name


def tiny_speech(folder: Path, kind: str = "WavLM", layers: int = 2) -> Path:
    """An untrained speech encoder with its preprocessor; "Wav2Vec2" is one that must not see padding."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    mask = kind != "Wav2Vec2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=48,
            conv_dim=(16, 16, 16),
            conv_stride=(5, 4, 4),
            conv_kernel=(10, 8, 4),
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=16,
            feat_extract_norm="layer" if mask else "group",
        )
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16_000, padding_value=0.0, do_normalize=True, return_attention_mask=mask
    ).save_pretrained(folder)
    return folder


def tiny_whisper(folder: Path) -> Path:
    """An untrained Whisper with its preprocessor."""
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = transformers.WhisperConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_mel_bins=16,
            vocab_size=100,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            classifier_proj_size=16,
        )
        transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    return folder
