"""Text poolings and context against transformers' own hidden states, and as they come to lie in a store."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extract.encoders import Options
from extract.engine import extract
from extract.text import TextEncoder
from toolkit.demo.encoders import make_text_encoder
from toolkit.errors import UserError
from toolkit.manifest import Manifest, Utterance
from toolkit.store import FeatureStore

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
            given = model(**tokenizer(*texts, return_tensors="pt", truncation=True, max_length=128), output_hidden_states=True)
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
    with pytest.raises(UserError, match="has 2 layers; --pooling last4 needs 4"):
        TextEncoder(str(text_encoder), "last4")


def corpus(tmp_path) -> Manifest:
    said = ["Hello.", "What do you want?", "", "I am so happy to see you!", "worst", "my day"]
    return Manifest("toy", ["joy"], tmp_path, [
        Utterance(f"u{i}", f"d{i // 4}", i % 4, ("Ann", "Bob")[i % 2], text, "joy", "train") for i, text in enumerate(said)
    ])  # fmt: skip


def texts_only(deep, **more) -> Options:
    return Options(modalities=("text",), text_model=str(deep), **more)


def test_four_matrices_in_a_store(deep, own, tmp_path):
    """Beside those of another pooling, which stay; a second run finds all of it done; --part-size does not matter."""
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
    said = []
    extract(manifest, out, texts_only(deep, pooling="last4"), notify=said.append)
    assert "nothing to do" in said[-1]
    with pytest.raises(UserError, match="parameters.pooled .*now"):
        extract(manifest, out, texts_only(deep, pooling="mean"), notify=said.append)
