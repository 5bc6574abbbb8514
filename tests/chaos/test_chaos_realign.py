"""`realign`, disturbed."""

from __future__ import annotations

import dataclasses

import pytest
from chaos_support import Command, attempt, tries
from lips_support import FACES, WEIGHTS
from transcribe_support import make_ctc

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.manifest import write_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def realigning(raw, tmp_path_factory):
    """A few utterances, with faces where the models are."""
    corpus = read_corpus("meld", raw)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    write_manifest(dataclasses.replace(corpus, utterances=corpus.utterances[:5]), path)
    models = ["--face-model", FACES, "--lips-model", WEIGHTS] if FACES.is_file() and WEIGHTS.is_file() else []
    ctc = make_ctc(tmp_path_factory.mktemp("model") / "ctc")
    options = ["--ctc-model", ctc, "--device", "cpu", "--workers", "2", *(models or ["--faces", "no"])]
    return Command(
        "realign", lambda root: ["realign", "manifest", path, "--out", root / "overlay.jsonl", *options], locks=True
    ).learn(tmp_path_factory.mktemp("realign"))


@tries(kill=2, stop=1, worker=1, fill=1, twice=1)
def test_realign(realigning, kind, place, tmp_path, record_property):
    attempt(realigning, kind, place, tmp_path, record_property)
