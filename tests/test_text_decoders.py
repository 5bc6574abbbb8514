"""Text features of decoders and encoders in batches, compared with transformers' own forward pass of each text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from text_model_support import (
    BEGIN,
    DECODERS,
    ENCODERS,
    LONG,
    MOST,
    TEXTS,
    WITHOUT_PADDING,
    make_text_model,
    states,
    tokens,
)

from erc_toolkit.extract.encoders.base import Turn
from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.encoders.text import placement
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.text.loading import load_pretrained
from erc_toolkit.extract.encoders.text.prompts import TEMPLATES
from erc_toolkit.extract.run.engine import extract
from erc_toolkit.toolkit.base import extras
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import Manifest, Utterance
from erc_toolkit.toolkit.store import FeatureStore


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A function from a family to its folder, made once."""
    root = tmp_path_factory.mktemp("families")

    def folder(family: str):
        where = root / family
        return where if where.exists() else make_text_model(where, family, [t for t in TEXTS if t] * 3)

    return folder


@pytest.mark.parametrize(
    ("family", "pooling"),
    [(f, p) for f in DECODERS for p in ("last", "mean")] + [(f, p) for f in ENCODERS for p in ("last", "mean", "cls")],
)
def test_a_batch_is_each_text_alone(models, family, pooling):
    folder = models(family)
    encoder = TextEncoder(str(folder), pooling)
    assert encoder.causal == (family in DECODERS) and encoder.dim == 32
    texts = [*TEXTS, LONG]
    values, reasons, details = encoder(texts)
    assert [bool(reason) for reason in reasons] == [not text for text in texts] and np.abs(values).max() > 0.5
    for i, text in enumerate(TEXTS):
        if text:
            ids = tokens(folder, text.strip() if family in DECODERS else text)
            found = states(folder, ids)
            # <s> is no token of the utterance, and in trained decoders the vectors' outlier.
            own = found[1:] if family in BEGIN else found
            expected = {"last": found[-1], "mean": own.mean(0), "cls": found[0]}[pooling]
            np.testing.assert_allclose(values[i], expected, atol=1e-5)
            np.testing.assert_allclose(values[i], encoder([text])[0][0], atol=1e-5)
            assert details["tokens"][i] == len(ids) and not details["tokens_cut"][i]
    whole = tokens(folder, LONG.strip() if family in DECODERS else LONG)
    assert details["tokens"][-1] == MOST and details["tokens_cut"][-1] == len(whole) - MOST
    end = [whole[-1]] if family in ENCODERS else []
    cut = states(folder, whole[: MOST - len(end)] + end)
    expected = {"last": cut[-1], "mean": (cut[1:] if family in BEGIN else cut).mean(0), "cls": cut[0]}[pooling]
    np.testing.assert_allclose(values[-1], expected, atol=1e-5)
    about = encoder.provenance()
    assert about["extractor"] == f"transformers {'decoder' if family in DECODERS else 'encoder'}"
    assert about["parameters"]["pooling"] == pooling


def test_padding_is_an_existing_token(models):
    """A tokenizer without a padding token gets none that the model has no embedding for."""
    for family in WITHOUT_PADDING:
        encoder = TextEncoder(str(models(family)), "last")
        ids = encoder._inputs.pad([encoder._inputs.encode(Turn(text)) for text in ("worst", "What do you want")])
        assert ids["input_ids"].max() < encoder._model.config.vocab_size
        assert ids["attention_mask"].tolist()[0] == sorted(ids["attention_mask"].tolist()[0], reverse=True)


@pytest.mark.parametrize("pooling", ["cls", "last4", "last4-mean"])
def test_the_first_token_of_a_decoder_is_refused(tmp_path, pooling):
    folder = make_text_model(tmp_path / "m", "llama", ["Hello there"], layers=4)
    with pytest.raises(UserError, match=f"is a decoder.*--pooling {pooling}.*use last or mean"):
        TextEncoder(str(folder), pooling)


def test_a_decoder_is_told_by_what_it_does(tmp_path):
    """BERT as a decoder sees no later token, though its name is an encoder's."""
    folder = make_text_model(tmp_path / "m", "bert", TEXTS[:3], is_decoder=True)
    assert TextEncoder(str(folder)).causal
    opened = make_text_model(tmp_path / "o", "llama", TEXTS[:3], is_causal=False)
    assert not TextEncoder(str(opened), "cls").causal


def test_an_encoder_decoder_that_needs_two_texts_is_refused(tmp_path):
    folder = make_text_model(tmp_path / "m", "t5", TEXTS[:3], d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(UserError, match="gives no vectors for a text alone; use an encoder or a decoder"):
        TextEncoder(str(folder))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_context_of_a_decoder_is_lines(models, family):
    folder, before = models(family), ("Ann: Hello.", "Bob: What do you want from me?")
    head, said = "Ann: Hello.\nBob: What do you want from me?\n", "Ann: I am so happy!"
    given = [Turn("I am so happy! ", "Ann", before), Turn("worst", "Bob")]
    for pooling in ("last", "mean"):
        encoder = TextEncoder(str(folder), pooling, context=2)
        values, _, details = encoder(given)
        found = states(folder, tokens(folder, head + said))
        own = found[len(tokens(folder, head)) :]
        np.testing.assert_allclose(values[0], own[-1] if pooling == "last" else own.mean(0), atol=1e-5)
        np.testing.assert_allclose(values[0], encoder(given[:1])[0][0], atol=1e-5)
        assert details["context"].tolist() == [2, 0] and not details["context_cut"].any()
        np.testing.assert_allclose(
            encoder(given[1:])[0][0],
            TextEncoder(str(folder), pooling)(["Bob: worst"])[0][0],
            atol=1e-5,
        )
        assert "a line 'speaker: transcript'" in encoder.provenance()["parameters"]["input"]


def test_long_context_of_a_decoder_loses_its_oldest_turns(models):
    folder = models("llama")
    encoder = TextEncoder(str(folder), "last", context=3)
    fits = ("Bob: worst", "Ann: Hello.")
    values, _, details = encoder([Turn("worst", "Ann", (f"Ann: {LONG}", *fits)), Turn(LONG, "Ann", fits)])
    assert details["context"].tolist() == [2, 0] and details["context_cut"].tolist() == [1, 2]
    np.testing.assert_allclose(
        values[0], states(folder, tokens(folder, "Bob: worst\nAnn: Hello.\nAnn: worst"))[-1], atol=1e-5
    )
    whole = tokens(folder, f"Ann: {LONG.strip()}")
    assert details["tokens_cut"].tolist() == [0, len(whole) - MOST] and details["tokens"][1] == MOST
    np.testing.assert_allclose(values[1], states(folder, whole[:MOST])[-1], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "roberta"])
@pytest.mark.parametrize("context", [0, 2])
def test_a_described_utterance(models, family, context):
    """Is the utterance followed by the sentence in parentheses, and the store says what the sentence is about."""
    plain = TextEncoder(str(models(family)), "mean", context=context)
    told = TextEncoder(str(models(family)), "mean", context=context, describe="prosody")
    turn = Turn("I see.", "Ann", ("Bob: worst",) if context else (), "Quiet and slow.")
    np.testing.assert_array_equal(told([turn])[0], plain([Turn("I see. (Quiet and slow.)", "Ann", turn.before)])[0])
    assert told.provenance()["parameters"] == {**plain.provenance()["parameters"], "described": "prosody"}
    assert "described" not in plain.provenance()["parameters"]


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "modernbert"])
def test_bfloat16_is_transformers_own(tmp_path, family, stored):
    """To the last bit, rotary positions included; the checksum of the weights does not depend on the precision."""
    folder = make_text_model(tmp_path / "m", family, TEXTS[:3] * 3, dtype=stored)
    encoder = TextEncoder(str(folder), "last", precision="bfloat16")
    text = LONG[:200]
    ids = tokens(folder, text.strip())
    np.testing.assert_array_equal(encoder([text.strip()])[0][0], states(folder, ids, torch.bfloat16)[-1])
    sums = {
        precision: TextEncoder(str(folder), "last", precision=precision).provenance()["weights_sha256"]
        for precision in ("float32", "bfloat16", "float16")
    }
    assert len(set(sums.values())) == 1


def test_weights_of_16_bits_are_not_loaded_as_32(tmp_path):
    """Even if the configuration says something else than the file."""
    folder = make_text_model(tmp_path / "m", "qwen2", TEXTS[:3], dtype=torch.bfloat16)
    settings = (folder / "config.json").read_text()
    assert '"bfloat16"' in settings
    (folder / "config.json").write_text(settings.replace('"bfloat16"', '"float32"'))
    from transformers import AutoModel

    assert {p.dtype for p in load_pretrained(str(folder), AutoModel, dtype=None)[1].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_pretrained(str(folder), AutoModel)[1].parameters()} == {torch.float32}
    encoder = TextEncoder(str(folder), "last", precision="bfloat16")
    save_file({k: v.float() for k, v in load_file(folder / "model.safetensors").items()}, folder / "model.safetensors")
    exact = TextEncoder(str(folder), "last")
    assert encoder.provenance()["weights_sha256"] == exact.provenance()["weights_sha256"]


def test_a_spread_model_gives_the_same(models):
    """On a machine without a GPU everything is in the main memory."""
    pytest.importorskip("accelerate")
    for family in ("llama", "roberta"):
        one, spread = (TextEncoder(str(models(family)), "last", spread=given) for given in (False, True))
        np.testing.assert_allclose(spread(TEXTS)[0], one(TEXTS)[0], atol=1e-6)
        assert spread.provenance() == one.provenance()  # where a model is changes no number


def test_spreading_needs_accelerate_and_all_devices(models, monkeypatch):
    with pytest.raises(UserError, match="--device-map uses all devices, but --device is cuda:1"):
        TextEncoder(str(models("gpt2")), "last", "cuda:1", spread=True)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--device-map needs accelerate.*pip install 'erc-toolkit\[llm\]'"):
        TextEncoder(str(models("gpt2")), "last", spread=True)


def test_a_decoder_in_a_store(tmp_path):
    folder, out = make_text_model(tmp_path / "qwen3", "qwen3", [*TEXTS, *TEMPLATES.values()] * 3), tmp_path / "s.h5"
    said = ["Hello.", "What do you want?", "", LONG]
    manifest = Manifest(
        "toy",
        ["joy"],
        tmp_path,
        [Utterance(f"u{i}", "d", i, ("Ann", "Bob")[i % 2], text, "joy", "train") for i, text in enumerate(said)],
    )
    options = Options(
        modalities=("text",), text_model=str(folder), pooling="last", text_context=2, text_prompt="emotion"
    )
    done = extract(manifest, out, options, notify=lambda line: None)
    assert any("1 transcript truncated" in note for note in done.notes)
    with FeatureStore.open(out) as store:
        feature = store.feature("text/qwen3")
        assert feature.present().tolist() == [True, True, False, True]
        assert feature.details()["context"].tolist() == [0, 1, 0, 0]
        expected = (
            "Read this conversation.\nAnn: Hello.\nBob: What do you want?\n"
            "In one word, the emotion that Bob shows in the last turn is:"
        )
        np.testing.assert_allclose(feature.values()[1], states(folder, tokens(folder, expected))[-1], atol=1e-5)
        assert '"prompt": "emotion"' in feature.attrs["parameters"] and "prompt_sha256" in feature.attrs["parameters"]


def test_layers_are_spread_whole(tmp_path, monkeypatch):
    """Over two small GPUs and the main memory; what accelerate then does with the map is its own."""
    accelerate = pytest.importorskip("accelerate")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(make_text_model(tmp_path / "m", "llama", TEXTS[:3], layers=8))
    layer = sum(p.nbytes for p in model.layers[0].parameters())
    words = model.embed_tokens.weight.nbytes
    room = int((words + 2.5 * layer) / 0.9)
    monkeypatch.setattr(accelerate.utils, "get_max_memory", lambda: {0: room, 1: room, "cpu": 0})
    maps = []
    monkeypatch.setattr(accelerate, "dispatch_model", lambda model, devices, **more: maps.append(devices))
    assert placement.place(model, torch.device("cuda"), True) == torch.device("cuda", 0)
    (devices,) = maps
    assert devices["embed_tokens"] == 0 and set(devices.values()) == {0, 1, "cpu"}
    assert {f"layers.{i}" for i in range(8)} <= set(devices)  # none in parts
    assert [devices[f"layers.{i}"] for i in range(8)] == sorted((devices[f"layers.{i}"] for i in range(8)), key=str)
