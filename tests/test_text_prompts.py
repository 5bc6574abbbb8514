"""Instructions around utterances: where the utterance is in them, what is dropped if they are too long, and errors."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_model_support import LONG, MOST, TEXTS, make_text_model, states, tokens
from tokenizers import Tokenizer, models

from erc_toolkit.extract.encoders.base import Turn
from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.text.inputs import Inputs
from erc_toolkit.extract.encoders.text.prompts import TEMPLATES, Prompt
from erc_toolkit.extract.run.rows.origins import text_key
from erc_toolkit.toolkit.base.errors import UserError

TEMPLATE = "Read.\n{context}\nNow {speaker} says\n{text}\n{described}\nWhat does {speaker} feel?"
PROMPT = Prompt("mine.txt", TEMPLATE)
TURN = Turn(" I am so happy! ", "Ann", ("Bob: Hello.", "Ann: worst"), "Loud.")
HEAD, TAIL = "Read.\nBob: Hello.\nAnn: worst\nNow Ann says\n", "\nLoud.\nWhat does Ann feel?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("prompts")
    texts = [*(text for text in TEXTS if text), TEMPLATE] * 3
    return {family: make_text_model(root / family, family, texts) for family in ("llama", "gpt2", "roberta")}


@pytest.mark.parametrize("family", ["llama", "gpt2", "roberta"])
def test_the_filled_prompt_is_the_input(folders, family):
    folder, said = folders[family], "I am so happy!"
    ids = tokens(folder, HEAD + said + TAIL)
    found = states(folder, ids)
    end = 1 if family == "roberta" else 0  # </s>
    first, after = len(tokens(folder, HEAD)) - end, len(tokens(folder, HEAD + said)) - end
    expected = {"last": found[-1], "mean": found[first:after].mean(0)}
    for pooling, vector in expected.items():
        encoder = TextEncoder(str(folder), pooling, context=2, prompt=PROMPT, describe="prosody")
        values, reasons, details = encoder([TURN, Turn("worst", "Bob"), Turn("")])
        np.testing.assert_allclose(values[0], vector, atol=1e-5)
        np.testing.assert_allclose(values[0], encoder([TURN])[0][0], atol=1e-5)
        assert reasons == ["", "", "empty transcript"]
        assert details["tokens"][0] == len(ids) and details["context"].tolist() == [2, 0, 0]
        parameters = encoder.provenance()["parameters"]
        assert parameters["prompt"] == "mine.txt" and parameters["described"] == "prosody"
        assert parameters["prompt_sha256"] == hashlib.sha256(TEMPLATE.encode()).hexdigest()


def test_a_prompt_that_is_too_long_loses_context_and_then_the_end_of_the_utterance(folders):
    from transformers import AutoTokenizer

    folder = folders["llama"]
    encoder = TextEncoder(str(folder), "last", context=2, prompt=PROMPT)
    turns = [Turn("worst", "Ann", (f"Bob: {LONG}", "Ann: Hello.")), Turn(LONG, "Ann", ("Ann: Hello.",))]
    values, _, details = encoder(turns)
    assert details["context"].tolist() == [1, 0] and details["context_cut"].tolist() == [1, 1]
    text = "Read.\nAnn: Hello.\nNow Ann says\nworst\nWhat does Ann feel?"
    np.testing.assert_allclose(values[0], states(folder, tokens(folder, text))[-1], atol=1e-5)
    # The question is still there, and the utterance has as many of its tokens as fit.
    tokenizer, whole = AutoTokenizer.from_pretrained(folder), tokens(folder, LONG.strip())[1:]
    for kept in range(len(whole), 0, -1):
        ids = tokens(folder, f"Read.\nNow Ann says\n{tokenizer.decode(whole[:kept])}\nWhat does Ann feel?")
        if len(ids) <= MOST:
            break
    assert details["tokens"][1] == len(ids) and details["tokens_cut"][1] == len(whole) - kept > 100
    np.testing.assert_allclose(values[1], states(folder, ids)[-1], atol=1e-5)


def test_a_chat_template_is_not_run(folders, tmp_path):
    from transformers import AutoTokenizer

    folder = make_text_model(tmp_path / "m", "llama", [*TEXTS[:3], TEMPLATE] * 3)
    before = TextEncoder(str(folder), "last", prompt=PROMPT)([TURN])[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ raise_exception('run') }}"
    tokenizer.save_pretrained(folder)
    np.testing.assert_array_equal(TextEncoder(str(folder), "last", prompt=PROMPT)([TURN])[0], before)


@pytest.mark.parametrize(
    ("template", "more", "message"),
    [
        ("{text}", {"context": 1}, r"x: has no \{context\}; add it, or leave --text-context out"),
        ("{text}", {"describe": "prosody"}, r"x: has no \{described\}; add it, or leave --describe out"),
        ("{text} {labels}", {}, r"x: .*\{labels\} is unknown; remove it"),
        ("Read. " * 100 + "{text}", {}, f"x: longer than the {MOST} tokens"),
    ],
)
def test_prompts_that_do_not_fit_the_options(folders, template, more, message):
    with pytest.raises(UserError, match=f"^--text-prompt {message}"):
        TextEncoder(str(folders["gpt2"]), "last", prompt=Prompt("x", template), **more)


def test_a_prompt_is_an_option(folders, tmp_path):
    from torch import device

    from erc_toolkit.extract.encoders.base import Setup

    (tmp_path / "p.txt").write_text("{context}\n{speaker}: {text}\n")
    options = Options(text_model=str(folders["gpt2"]), pooling="last", text_prompt=str(tmp_path / "p.txt"))
    encoder = TextEncoder.build(options, Setup(device("cpu")))
    assert encoder.prompt == Prompt("p.txt", "{context}\n{speaker}: {text}")
    np.testing.assert_allclose(
        encoder([Turn("worst", "Ann")])[0][0],
        states(folders["gpt2"], tokens(folders["gpt2"], "\nAnn: worst"))[-1],
        atol=1e-5,
    )


@given(
    st.text("a{}\n txe", max_size=12), st.text("a{}\n", max_size=6), st.lists(st.text("b\n", max_size=4), max_size=3)
)
def test_the_place_of_the_utterance(said, described, context):
    turn = Turn(said, "Ann", (), described)
    for template in (TEMPLATES["emotion"], TEMPLATE, "{text}", "a\n\n{text}{described}\n{text}\n"):
        text, start, end = Prompt("x", template).place(turn, context)
        assert text[start:end] == re.sub("\n+", "\n", said.strip()) and "\n\n" not in text
        assert text == Prompt("x", template).fill(turn, context)


def test_a_transcript_without_tokens_has_a_reason():
    """Its mean would be over nothing."""
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.BPE({letter: i for i, letter in enumerate("yesNo ")}, []))  # drops what it does not know
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
    inputs = Inputs(tokenizer, 8, 0, causal=True)
    assert tokenizer.pad_token == "y"
    assert inputs.encode(Turn("???")).reason == "the tokenizer has no token for the transcript"
    assert inputs.encode(Turn("yes?")).inputs["input_ids"] == [0, 1, 2]
    tight = Inputs(tokenizer, 8, 0, causal=True, prompt=Prompt("x", "{speaker} {text}"))
    assert tight.encode(Turn("yes", "No")).tokens == 6
    assert tight.encode(Turn("yes yes", "No")).tokens_cut == 2
    assert tight.encode(Turn("yes", "yesyesyes")).reason == "the prompt leaves no room for the transcript"


def test_the_key_of_a_row_with_a_sentence_about_the_voice():
    """Rows without one keep the keys of earlier versions."""
    from erc_toolkit.toolkit.base.hashes import json_sha256

    plain = Turn("I see.", "Ann", ("Bob: worst",))
    assert text_key(plain, "") == json_sha256(["text", "I see.", "Ann", ["Bob: worst"]])[:32]
    keys = {text_key(Turn("I see.", "Ann", ("Bob: worst",), told), "") for told in ("", "Quiet.", "Loud.")}
    assert len(keys) == 3
    assert text_key(Turn("", described="Quiet."), "noise") == text_key(Turn(""), "noise")
