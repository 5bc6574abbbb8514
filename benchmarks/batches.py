"""Whether a feature is what its library gives, and the same alone and in a batch: the greatest differences in float32.

Every network is tiny and has random numbers in all its weights; nothing is fetched. "Alone" is an utterance given to
the extractor by itself, "by hand" the library called on that utterance without padding: transformers, torchvision or
opensmile. openSMILE's sets go through a whole run, from WAV files to the store.

    python benchmarks/batches.py
"""

from __future__ import annotations

import itertools
import tempfile
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import opensmile
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing

from erc_toolkit.extract.api import extract
from erc_toolkit.extract.encoders.audio.speech import AudioModel
from erc_toolkit.extract.encoders.base import AudioSpan, FrameSeries
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES, FaceEncoder
from erc_toolkit.extract.encoders.visual.image import ImageModel
from erc_toolkit.extract.encoders.visual.video import VideoModel, clip_frames
from erc_toolkit.toolkit.manifest import Manifest, Utterance
from erc_toolkit.toolkit.store import FeatureStore

RATE = 16_000
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXTS = ["Hello.", "What do you want from me, my day?", "I am so happy to see you! " * 3, "worst", "naïve — ok"]
_HEADS = {"num_key_value_heads": 2}
TEXT: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "gpt2": {},
    "llama": _HEADS,
    "qwen2": _HEADS,
    "qwen3": {**_HEADS, "head_dim": 8},
    "mistral": {**_HEADS, "sliding_window": 5},
    "gemma": {**_HEADS, "head_dim": 8},
}
ENCODERS = ("bert", "roberta", "deberta-v2", "modernbert")
_STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
# Classes of transformers, more of the configuration, and whether the preprocessor gives a mask of the padding.
SPEECH: dict[str, tuple[str, dict[str, Any], bool]] = {
    "wav2vec2, as base": ("Wav2Vec2", {"feat_extract_norm": "group"}, False),
    "wav2vec2, as large": ("Wav2Vec2", _STABLE, True),
    "hubert, as base": ("Hubert", {"feat_extract_norm": "group"}, False),
    "hubert, as large": ("Hubert", _STABLE, True),
    "wavlm, as base": ("WavLM", {"feat_extract_norm": "group"}, False),
    "wavlm, as large": ("WavLM", _STABLE, True),
    "unispeech-sat": ("UniSpeechSat", _STABLE, True),
    "data2vec-audio": ("Data2VecAudio", {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}, True),
}
_PIXELS = {"image_size": 48, "patch_size": 16}
_TWO = {
    "vision_config": {**SIZE, **_PIXELS},
    "text_config": {**SIZE, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_EDGE = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
_SQUARE = {"size": {"height": 48, "width": 48}}
_CLIPS = {**SIZE, **_PIXELS, "num_frames": 4}
_CONVNEXT = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "image_size": 48}
# Classes of transformers and the configuration, then the preprocessor's class and settings.
IMAGE: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": ("ViT", {**SIZE, **_PIXELS}, "ViTImageProcessor", _SQUARE),
    "clip": ("CLIP", _TWO, "CLIPImageProcessor", _EDGE),
    "siglip": ("Siglip", _TWO, "SiglipImageProcessor", _SQUARE),
    "dinov2": ("Dinov2", {**SIZE, **_PIXELS}, "BitImageProcessor", _EDGE),
    "convnext": ("ConvNext", _CONVNEXT, "ConvNextImageProcessor", {"size": {"shortest_edge": 48}}),
}
VIDEO: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "videomae": ("VideoMAE", _CLIPS, "VideoMAEImageProcessor", _EDGE),
    "timesformer": ("Timesformer", _CLIPS, "VideoMAEImageProcessor", _EDGE),
    "vivit": ("Vivit", {**_CLIPS, "tubelet_size": [2, 16, 16]}, "VivitImageProcessor", _EDGE),
}
SETS = ("ComParE_2016", "IS10", "eGeMAPSv02")
# Kind, family, and the vectors of the utterances in batches, alone and by hand.
Row = tuple[str, str, list[np.ndarray], list[np.ndarray], list[np.ndarray]]


def scattered(model: torch.nn.Module) -> Any:
    """The model with random numbers in all its weights, as a trained one has, and not only in its matrices."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model.eval()


def built(name: str, config: Mapping[str, Any]) -> Any:
    """A model of transformers' classes of that name."""
    torch.manual_seed(0)
    return scattered(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config)))


# -- text


def text_model(folder: Path, family: str) -> Path:
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS * 3, 400, special_tokens=list(special.values()), show_progress=False)
    if family in ENCODERS:
        ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", ids)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, model_max_length=90, **special)
    given = {"vocab_size": len(fast), "max_position_embeddings": 96, **SIZE, **TEXT[family]}
    given |= {"pad_token_id": fast.pad_token_id, "bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id}
    given |= {"cls_token_id": fast.bos_token_id, "sep_token_id": fast.eos_token_id}
    torch.manual_seed(0)
    model = scattered(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **given)))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def texts(root: Path) -> Iterator[Row]:
    for family in TEXT:
        folder = text_model(root / family, family)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        together, alone, own = [], [], []
        for pooling in ("mean", "last"):
            encoder = TextEncoder(str(folder), pooling)
            together += list(encoder(TEXTS)[0])
            alone += [encoder([text])[0][0] for text in TEXTS]
            for text in TEXTS:
                ids = tokenizer(text.strip() if encoder.causal else text, return_tensors="pt")["input_ids"]
                hidden = model(input_ids=ids).last_hidden_state[0].numpy()
                own.append(hidden.mean(0) if pooling == "mean" else hidden[-1])
        yield "text", family, together, alone, own


# -- audio


def sounds() -> list[np.ndarray]:
    """Noise and tones at 16 kHz whose loudness changes, as 16-bit numbers on the scale -1 to 1."""
    rng, found = np.random.default_rng(0), []
    for n in (40_000, 16_001, 4_000, 28_000):
        x = rng.normal(0, 0.1, n) * (1 + np.sin(np.arange(n) / 900)) + 0.2 * np.sin(np.arange(n) ** 1.2 / 50)
        found.append(np.round(0.3 * x * 2**15).clip(-(2**15), 2**15 - 1).astype(np.float32) / 2**15)
    return found


def speech_model(folder: Path, family: str) -> Path:
    name, own, mask = SPEECH[family]
    convolutions = {"conv_dim": (8, 8, 8), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 4)}
    positions = {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    built(name, {**SIZE, **convolutions, **positions, **own}).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=mask).save_pretrained(folder)
    return folder


def whisper_model(folder: Path) -> Path:
    """Whisper with its real windows of 30 s."""
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1, "vocab_size": 20}
    half = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
    sizes = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in half.items()}
    model = built("Whisper", {"d_model": 32, "num_mel_bins": 8, "max_target_positions": 8, **sizes, **ends})
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return folder


def speech(root: Path) -> Iterator[Row]:
    spans = [AudioSpan(samples, RATE) for samples in sounds()]
    for family in (*SPEECH, "whisper"):
        whisper = family == "whisper"
        folder = whisper_model(root / "whisper") if whisper else speech_model(root / family.replace(", ", "-"), family)
        encoder = AudioModel(str(folder), layers="each")
        prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        model = model.encoder if whisper else model
        own = []
        for span in spans:
            inputs = prepare(span.samples, sampling_rate=RATE, return_tensors="pt")
            output = model(**inputs, output_hidden_states=True)
            states = torch.stack([*output.hidden_states[:-1], output.last_hidden_state])[:, 0].double()
            states = states[:, : -(-len(span.samples) // 320)] if whisper else states  # frames of 20 ms with sound
            own.append(states.mean(1).reshape(-1).numpy())
        together = [vector for vector, *_ in encoder.utterances(spans)]
        yield "speech", family, together, [next(iter(encoder.utterances([one])))[0] for one in spans], own


def opensmile_run(root: Path, alone: bool) -> dict[str, np.ndarray]:
    """The features of a whole run, by name; alone: each utterance in a run of its own."""
    found: dict[str, list[np.ndarray]] = {}
    rows = []
    for i, samples in enumerate(sounds()):
        with wave.open(str(root / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, len(samples), "NONE", ""))
            file.writeframes((samples * 2**15).astype("<i2").tobytes())
        rows.append(Utterance(f"u{i}", f"d{i}", 0, "A", "text", None, "train", media=f"{i}.wav"))
    features = (*(f"opensmile:{name}" for name in SETS), "prosody")
    for number, group in enumerate([[row] for row in rows] if alone else [rows]):
        out = root / f"{'alone' if alone else 'run'}{number}.h5"
        manifest = Manifest("noise", ["x"], root, group)
        extract(manifest, out, features=features, device="cpu", notify=lambda line: None)
        with FeatureStore.open(out) as store:
            for name in store.feature_names():
                found.setdefault(name.removeprefix("audio/"), []).append(store.feature(name).values())
    return {name: np.concatenate(values) for name, values in found.items()}


def sets(root: Path) -> Iterator[Row]:
    together, alone = opensmile_run(root, False), opensmile_run(root, True)
    for name in SETS:
        smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.Functionals)
        own = [smile.process_signal(samples, RATE).to_numpy().reshape(-1) for samples in sounds()]
        yield "opensmile", name, list(together[name]), list(alone[name]), own
    frames = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    own = [by_hand(frames.process_signal(samples, RATE)) for samples in sounds()]
    yield "prosody", "eGeMAPSv02", list(together["prosody"]), list(alone["prosody"]), own


def by_hand(table: Any) -> np.ndarray:
    """The six numbers of prosody from openSMILE's frames."""
    loudness, pitch = table["Loudness_sma3"].to_numpy(), table["F0semitoneFrom27.5Hz_sma3nz"].to_numpy()
    found, voiced = [], pitch > 0
    for values in (loudness, pitch[voiced]):
        low, middle, high = np.percentile(values, [20, 50, 80]) if len(values) else (0.0, 0.0, 0.0)
        found += [middle, high - low]
    starts = sum(key for key, _ in itertools.groupby(voiced))
    return np.array([*found, voiced.mean(), starts / (0.01 * len(voiced))])


# -- video


def visual_model(folder: Path, family: str) -> Path:
    name, config, processor, settings = {**IMAGE, **VIDEO}[family]
    built(name, config).save_pretrained(folder)
    own = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], **settings}
    getattr(transformers, processor)(**own).save_pretrained(folder)
    return folder


def vectors(encoder: Any, counts: tuple[int, ...]) -> tuple[list[FrameSeries], list[np.ndarray], list[np.ndarray]]:
    """Random crops of utterances, and their vectors in batches and alone."""
    side, rng = encoder.expected.side, np.random.default_rng(0)
    shape = (side, side) if encoder.expected.grey else (side, side, 3)
    crops = [FrameSeries(rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) / 5) for n in counts]
    together = [one.values for one in encoder.extract(crops, lambda n: None)]
    return crops, together, [next(iter(encoder.extract([one], lambda n: None))).values for one in crops]


def faces(root: Path) -> Iterator[Row]:
    for name in ("densenet121", "denseface"):
        crops, together, alone = vectors(FaceEncoder(name, "random"), (1, 3, 12, 5))
        torch.manual_seed(0)  # the seed that "random" stands for
        net = ARCHITECTURES[name].build().eval()
        own = []
        for one in crops:
            x = torch.from_numpy(one.images).float()
            if x.ndim == 3:
                x = ((x - 129) / 63.58).unsqueeze(1)
            else:
                x = (x / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
                x = x.permute(0, 3, 1, 2)
            own.append(torch.relu(net.features(x)).mean((2, 3)).mean(0).numpy())
        yield "face", name, together, alone, own


def images(root: Path) -> Iterator[Row]:
    for family in IMAGE:
        folder = visual_model(root / family, family)
        crops, together, alone = vectors(ImageModel(str(folder)), (1, 7, 13, 2, 5, 31))
        prepare = transformers.AutoImageProcessor.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        model = getattr(model, "vision_model", model)
        own = []
        for one in crops:
            hidden = model(**prepare(list(one.images), do_resize=False, return_tensors="pt")).last_hidden_state
            means = {"convnext": (2, 3), "siglip": (1,)}  # the others have a class token
            own.append((hidden.mean(means[family]) if family in means else hidden[:, 0]).mean(0).numpy())
        yield "image", family, together, alone, own


def videos(root: Path) -> Iterator[Row]:
    for family in VIDEO:
        folder = visual_model(root / family, family)
        crops, together, alone = vectors(VideoModel(str(folder)), (1, 6, 13, 2, 5, 31))
        prepare = transformers.AutoImageProcessor.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        own = []
        for one in crops:
            clips = []
            for chosen in clip_frames(len(one.images), 4):
                inputs = prepare([one.images[i] for i in chosen], do_resize=False, return_tensors="pt")
                hidden = model(**inputs).last_hidden_state[0]
                clips.append(hidden.mean(0) if family == "videomae" else hidden[0])
            own.append(torch.stack(clips).mean(0).numpy())
        yield "video", family, together, alone, own


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print("| kind | family | batch − alone | alone − by hand | typical value |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        for kind in (texts, sets, speech, faces, images, videos):
            for what, family, together, alone, own in kind(Path(scratch)):
                one, two = (
                    max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))
                    for left, right in ((together, alone), (alone, own))
                )
                typical = float(np.median(np.abs(np.concatenate(own))))
                print(f"| {what} | {family} | {one:.1g} | {two:.1g} | {typical:.1g} |", flush=True)


if __name__ == "__main__":
    main()
