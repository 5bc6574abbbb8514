"""`realign`, disturbed."""

from __future__ import annotations

import pytest
from chaos_support import Command, attempt, tries
from lips_support import FACES, WEIGHTS
from transcribe_support import make_ctc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def realigning(raw, tmp_path_factory):
    """With faces where the models are."""
    models = ["--face-model", FACES, "--lips-model", WEIGHTS] if FACES.is_file() and WEIGHTS.is_file() else []
    ctc = make_ctc(tmp_path_factory.mktemp("model") / "ctc")
    options = ["--ctc-model", ctc, "--device", "cpu", "--workers", "2", *(models or ["--faces", "no"])]
    return Command(
        "realign", lambda root: ["realign", "meld", raw, "--out", root / "overlay.jsonl", *options], locks=True
    ).learn(tmp_path_factory.mktemp("realign"))


@tries(kill=3, stop=1, worker=1, fill=2, twice=1)
def test_realign(realigning, kind, place, tmp_path, record_property):
    attempt(realigning, kind, place, tmp_path, record_property)
