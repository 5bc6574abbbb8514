"""Folders with encoders of real shapes and random weights, in the format of transformers; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import torch

# Width, layers and heads of an encoder.
SHAPES = {"tiny": (64, 2, 4), "base": (768, 12, 12), "large": (1024, 24, 16)}


def text_model(folder: Path, shape: str, texts: list[str]) -> Path:
    """A RoBERTa of that size with random weights and a tokenizer trained on the texts."""
    from transformers import RobertaConfig, RobertaModel

    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    make_text_encoder(folder, texts)
    width, layers, heads = SHAPES[shape]
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        type_vocab_size=1,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def speech_model(folder: Path, shape: str) -> Path:
    """A WavLM of that size with random weights: large is that of wavlm-large, with its preprocessor."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    width, layers, heads = SHAPES[shape]
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        conv_dim=(512 if shape != "tiny" else 32,) * 7,
        num_conv_pos_embeddings=128 if shape != "tiny" else 16,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True).save_pretrained(folder)
    return folder


def image_model(folder: Path, shape: str) -> Path:
    """CLIP's image encoder with random weights: large is that of ViT-L/14, with its preprocessor."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    return _of_pictures(folder, shape, 14, CLIPVisionConfig, CLIPVisionModel, CLIPImageProcessor)


def video_model(folder: Path, shape: str) -> Path:
    """VideoMAE's encoder with random weights: base is that of videomae-base, with its preprocessor."""
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    return _of_pictures(folder, shape, 16, VideoMAEConfig, VideoMAEModel, VideoMAEImageProcessor)


def _of_pictures(folder: Path, shape: str, patch: int, config_class, model_class, processor_class) -> Path:
    """A transformer on patches of that size, of pictures of 224 pixels; "tiny" has patches of 8 pixels of 32."""
    width, layers, heads = SHAPES[shape]
    side, patch = (32, 8) if shape == "tiny" else (224, patch)
    torch.manual_seed(0)
    config = config_class(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=side,
        patch_size=patch,
    )
    model_class(config).save_pretrained(folder)
    size = {"height": side, "width": side}
    processor_class(size={"shortest_edge": side}, crop_size=size).save_pretrained(folder)
    return folder
