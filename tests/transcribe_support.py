"""For `transcribe`: tiny random models in the forms of the real ones, scripted ones, and recordings."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from erc_toolkit.extract.diarization.loading import Loader, Options
from erc_toolkit.extract.diarization.pieces import Models
from erc_toolkit.extract.diarization.recognition import Word
from erc_toolkit.extract.diarization.voice_activity import RATE, WINDOW
from erc_toolkit.toolkit.demo.script import FPS
from erc_toolkit.toolkit.demo.voice import OUT_RATE, speak

LANGUAGES = ("en", "de")


def make_whisper(folder: Path) -> Path:
    """Writes an untrained Whisper with a tokenizer, converted to CTranslate2, as faster-whisper reads it."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    words = ["\u0120" + word for word in "hello there my old friend what is it now".split()]
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
    special += [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    stamps = [f"<|{0.02 * i:.2f}|>" for i in range(1501)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *words, *special, *stamps])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(stamps)
    source = folder.with_name(folder.name + "-source")
    source.mkdir(parents=True)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    fast.save_pretrained(source)
    torch.manual_seed(0)
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=80,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        begin_suppress_tokens=[end],
        suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config.alignment_heads = [[0, 0]]
    model.generation_config.lang_to_id = {f"<|{code}|>": vocabulary[f"<|{code}|>"] for code in LANGUAGES}
    model.generation_config.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
    model.save_pretrained(source)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(source)
    TransformersConverter(str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(str(folder))
    return folder


def make_voices(folder: Path) -> Path:
    """Writes an untrained WavLM with x-vectors and its preprocessor."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8, 8, 8, 8, 8, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_buckets=8,
        max_bucket_distance=16,
        tdnn_dim=(8, 8, 8, 8, 16),
        xvector_output_dim=8,
        classifier_proj_size=8,
        num_ctc_classes=2,
    )
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


def make_ctc(folder: Path, letters: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'") -> Path:
    """Writes an untrained wav2vec2 with a CTC head over letters, as `realign` reads it."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    words = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


def demo_voice(who: str, seconds: float, seed: int = 0) -> np.ndarray:
    """float32 (n,) at 16 kHz: one of the demo's voices, which silero-vad takes for voice."""
    loud, _ = speak(who, "anger", round(4 * seconds), round(FPS * seconds), np.random.default_rng(seed))
    return loud[:: OUT_RATE // RATE].astype(np.float32)


# Scripted models hear a tone as voice; its frequency is the person, and the words are numbered by the second.
PEOPLE = {"low": 200.0, "high": 400.0, "top": 800.0}


def tones(parts: Sequence[tuple[str, float]]) -> np.ndarray:
    """float32 (n,): a tone per (person, seconds); "" is silence."""
    found = []
    for who, seconds in parts:
        time = np.arange(round(seconds * RATE)) / RATE
        level = 0.3 * np.sin(2 * np.pi * PEOPLE[who] * time) if who else np.zeros(len(time))
        found.append(level.astype(np.float32))
    return np.concatenate(found)


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


class Activity:
    """Voice is where it is loud."""

    def probabilities(self, samples, state=None):
        count = -(-len(samples) // WINDOW)
        padded = np.pad(samples, (0, count * WINDOW - len(samples))).reshape(count, WINDOW)
        return (np.abs(padded).mean(1) > 0.02).astype(np.float32), None

    def provenance(self):
        return {"model": "loudness", "weights_sha256": "a"}


class Recogniser:
    """A word per half second of voice, with the number of calls; `sure` is its probability."""

    def __init__(self, sure: float = 0.9) -> None:
        self.calls: list[float] = []
        self.sure = sure

    def detect(self, samples):
        return "en"

    def words(self, samples, language):
        self.calls.append(round(len(samples) / RATE, 2))
        found = []
        for i in range(int(len(samples) / RATE / 0.5)):
            part = samples[round(i * 0.5 * RATE) : round((i * 0.5 + 0.5) * RATE)]
            if np.abs(part).mean() > 0.1:
                found.append(Word(i * 0.5 + 0.05, i * 0.5 + 0.45, f"w{len(self.calls)}.{i}", self.sure))
        return found

    def provenance(self):
        return {"model": "scripted", "weights_sha256": "b"}


class Voices:
    """A direction per frequency, with a little noise."""

    distance = 0.3

    def embed(self, windows):
        found = []
        for number, window in enumerate(windows):
            spectrum = np.abs(np.fft.rfft(window, RATE))
            weights = np.array([spectrum[round(f) - 5 : round(f) + 6].sum() for f in PEOPLE.values()])
            noise = 0.01 * np.sin(number + np.arange(len(PEOPLE)))
            found.append(weights / max(weights.sum(), 1e-9) + noise)
        return np.array(found, np.float32)

    def provenance(self):
        return {"model": "tones", "weights_sha256": "c"}


def build_voices(device):
    return Voices()


class Scripted(Loader):
    """The scripted models, and how often they were asked for."""

    def __init__(self, sure: float = 0.9) -> None:
        super().__init__(Options())
        self.heard, self.asked = Recogniser(sure), []

    def models(self):
        self.asked.append("models")
        return Models(Activity(), self.heard, Voices())

    def recogniser(self):
        self.asked.append("recogniser")
        return self.heard


def content_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def in_parts(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Bytes in parts of these sizes, and what is left."""
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]
