"""Text poolings and context compared with transformers' own hidden states, and as stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.run.context import turns
from erc_toolkit.extract.run.engine import extract
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.manifest import Manifest, Utterance
from erc_toolkit.toolkit.store import FeatureStore

TEXTS = ["Hello.", "What do you want from me, my day?", "I am so happy to see you! " * 40, "", "worst"]


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A RoBERTa of five layers: one more than the poolings read."""
    return make_text_encoder(tmp_path_factory.mktemp("deep") / "tiny", [text for text in TEXTS if text] * 2, layers=5)


@pytest.fixture(scope="module")
def own(deep):
    """transformers' own hidden states of a text (or a pair), one at a time, a (tokens, dim) array for each layer."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(deep), AutoModel.from_pretrained(deep).eval()

    def states(*texts: str) -> list[np.ndarray]:
        with torch.no_grad():
            given = model(
                **tokenizer(*texts, return_tensors="pt", truncation=True, max_length=128), output_hidden_states=True
            )
        return [layer[0].numpy() for layer in given.hidden_states]

    return states


@pytest.mark.parametrize("pooling", ["last4", "last4-mean"])
def test_last_four_layers_are_transformers_own(deep, own, pooling):
    encoder = TextEncoder(str(deep), pooling)
    values, reasons, _ = encoder(TEXTS)
    assert [bool(reason) for reason in reasons] == [not text for text in TEXTS]
    for i, text in enumerate(TEXTS):
        if text:
            layers = [own(text)[-k][0] for k in (1, 2, 3, 4)]
            expected = np.concatenate(layers) if pooling == "last4" else np.mean(layers, axis=0)
            np.testing.assert_allclose(values[i], expected, atol=1e-5)
            np.testing.assert_allclose(values[i], encoder([text])[0][0], atol=1e-5)
    assert encoder.provenance()["parameters"]["pooling"] == pooling


def test_too_few_layers_are_refused(text_encoder):
    with pytest.raises(UserError, match="2 layers.*--pooling last4 needs 4"):
        TextEncoder(str(text_encoder), "last4")


def corpus(tmp_path) -> Manifest:
    texts = ["Hello.", "What do you want?", "", "I am so happy to see you!", "worst", "my day"]
    return Manifest(
        "toy",
        ["joy"],
        tmp_path,
        [
            Utterance(f"u{i}", f"d{i // 4}", i % 4, ("Ann", "Bob")[i % 2], text, "joy", "train")
            for i, text in enumerate(texts)
        ],
    )


def texts_only(deep, **more) -> Options:
    return Options(modalities=("text",), text_model=str(deep), **more)


def test_four_matrices_in_a_store(deep, own, tmp_path):
    """The matrices of another pooling are kept, and a second run has nothing to do."""
    manifest, out = corpus(tmp_path), tmp_path / "s.h5"
    extract(manifest, out, texts_only(deep, pooling="cls"), notify=lambda line: None)
    extract(manifest, out, texts_only(deep, pooling="last4"), notify=lambda line: None)
    with FeatureStore.open(out) as store:
        store.verify()
        assert store.feature_names() == ["text/tiny", "text/tiny-1", "text/tiny-2", "text/tiny-3", "text/tiny-4"]
        for k in (1, 2, 3, 4):
            feature = store.feature(f"text/tiny-{k}")
            assert feature.dim == 128 and feature.present().tolist() == [True, True, False, True, True, True]
            np.testing.assert_allclose(feature.values()[3], own(manifest.utterances[3].text)[-k][0], atol=1e-5)
            assert feature.attrs["layer"] == ["last", "second-last", "third-last", "fourth-last"][k - 1]
        assert (store.feature("text/tiny").values() == store.feature("text/tiny-1").values()).all()
    lines = []
    extract(manifest, out, texts_only(deep, pooling="last4"), notify=lines.append)
    assert "nothing to do" in lines[-1]
    with pytest.raises(UserError, match=r's.h5: text/tiny .*parameters.pooling "cls", now "mean".*--out'):
        extract(manifest, out, texts_only(deep, pooling="mean"), notify=lines.append)


def dialogues(tmp_path, long: str = "") -> Manifest:
    texts = ["Hello.", "What do you want?", "", "I am so happy to see you!", "worst", "my day", "Hello."]
    who = ["Ann", "Bob", "Ann", "Bob", "Bob", "Ann", "Cid"]
    texts[1] += long
    return Manifest(
        "toy",
        ["joy"],
        tmp_path,
        [
            Utterance(
                f"u{i}", f"d{i // 5}", i % 5, who[i], texts[i], "joy", "train", mask={"text": "noise"} if i == 6 else {}
            )
            for i in range(7)
        ],
    )


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_context_is_the_tokenizers_own_pair(deep, own, tmp_path, pooling):
    manifest = dialogues(tmp_path)
    encoder = TextEncoder(str(deep), pooling, context=2)
    values, reasons, details = encoder(turns(manifest, range(7), 2))
    pairs = {
        0: ("Ann: Hello.",),
        1: ("Ann: Hello.", "Bob: What do you want?"),
        3: ("Bob: What do you want?", "Bob: I am so happy to see you!"),
        4: ("Bob: I am so happy to see you!", "Bob: worst"),
        5: ("Ann: my day",),
    }
    assert [i for i, reason in enumerate(reasons) if not reason] == list(pairs)
    for i, pair in pairs.items():
        states = own(*pair)[-1]
        alone = len(own(pair[-1])[-1]) - 2  # without <s> and </s>
        expected = states[0] if pooling == "cls" else states[-1 - alone : -1].mean(0)
        np.testing.assert_allclose(values[i], expected, atol=1e-5)
        np.testing.assert_allclose(values[i], encoder(turns(manifest, range(i, i + 1), 2))[0][0], atol=1e-5)
    assert details["context"].tolist() == [0, 1, 0, 1, 1, 0, 0] and not details["context_cut"].any()


def test_a_context_that_is_too_long_loses_its_oldest_turns(deep, own, tmp_path):
    encoder = TextEncoder(str(deep), "cls", context=4)
    manifest = dialogues(tmp_path, " happy" * 100)
    values, _, details = encoder(turns(manifest, range(7), 4))
    assert details["context_cut"].tolist() == [0, 0, 0, 1, 2, 0, 0] and details["context"].tolist() == [
        0,
        1,
        0,
        1,
        1,
        0,
        0,
    ]
    np.testing.assert_allclose(values[4], own("Bob: I am so happy to see you!", "Bob: worst")[-1][0], atol=1e-5)
    too_long = encoder(turns(dialogues(tmp_path, " happy" * 200), range(2), 4))[2]
    assert too_long["tokens_cut"][1] > 50 and too_long["context_cut"][1] == 1 and too_long["tokens"][1] == 128


def test_truncation_is_reported(deep, tmp_path):
    """Context extends across parts; the closing summary counts truncated texts and contexts."""
    whole = extract(
        dialogues(tmp_path, " happy" * 200),
        tmp_path / "a.h5",
        texts_only(deep, text_context=4),
        notify=lambda line: None,
    )
    assert any("1 transcript truncated" in note and "128 tokens" in note for note in whole.notes)
    assert any("3 utterances" in note and "less context" in note and "128 tokens" in note for note in whole.notes)
    plain = extract(
        dialogues(tmp_path), tmp_path / "b.h5", texts_only(deep, text_context=4, part_size=1), notify=lambda line: None
    )
    assert plain.notes == []
    with FeatureStore.open(plain.store) as store:
        feature = store.feature("text/tiny")
        assert '"context": 4' in feature.attrs["parameters"] and "speaker: transcript" in feature.attrs["parameters"]
        assert feature.details()["context"].tolist() == [0, 1, 0, 2, 3, 0, 0]
