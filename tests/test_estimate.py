"""`extract --dry-run`: a few dialogues are measured, nothing is written, and what is scaled is scaled right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from features_support import QUICK, TEXTS
from hypothesis import given
from hypothesis import strategies as st

from erc_toolkit.extract.api import estimate, extract
from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.run.costs import Costs
from erc_toolkit.extract.run.estimate import sample_of, weights_of
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance
from erc_toolkit.toolkit.store import FeatureStore


def manifest_of(lengths: list[int]) -> Manifest:
    """Dialogues of these lengths, each utterance in a file of its own but the first dialogue in one file."""
    utterances = [
        Utterance(f"u{d}_{i}", f"d{d}", i, "Ann", "Hi.", "joy", "train", "0.mp4" if d == 0 else f"{d}_{i}.mp4")
        for d, length in enumerate(lengths)
        for i in range(length)
    ]
    return Manifest("toy", ["joy"], Path("."), utterances)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_the_sample_has_whole_dialogues_from_everywhere(lengths):
    manifest = manifest_of(lengths)
    part, files = sample_of(manifest)
    chosen = [name for name, _ in part.dialogues()]
    assert chosen == sorted(set(chosen), key=lambda name: int(name[1:]))
    for name, rows in part.dialogues():
        assert len(rows) == lengths[int(name[1:])]
    assert len(part.utterances) >= min(32, sum(lengths)) and len(chosen) >= min(3, len(lengths))
    assert chosen[0] == "d0" and (len(lengths) == 1 or chosen[-1] == f"d{len(lengths) - 1}")
    assert files == len({u.media for u in part.utterances})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    return make_text_encoder(tmp_path_factory.mktemp("models") / "words", TEXTS * 3)


def test_nothing_is_written_and_the_store_has_the_size(intact, model, tmp_path, monkeypatch):
    """The demo's dialogues are the whole sample: the estimate is of what a run really makes."""
    monkeypatch.chdir(tmp_path)
    manifest = read_corpus("meld", intact)
    features = {"features": (f"text:{model}", "opensmile:eGeMAPSv02", "face:denseface@weights=random"), **QUICK}
    found = estimate(manifest, notify=lambda line: None, **features)
    assert list(tmp_path.iterdir()) == []
    assert found.utterances == len(manifest.utterances) and 0 < found.sampled <= found.utterances
    summary = extract(manifest, tmp_path / "s.h5", notify=lambda line: None, **features)
    with FeatureStore.open(tmp_path / "s.h5") as store:
        sizes = {name: 4 * len(store) * store.feature(name).dim for name in store.feature_names()}
    assert {one.name: one.disk for one in found.features} == sizes
    assert set(found.work) | {one.name for one in found.features} == set(summary.costs.work)
    weights = {one.name: one.weights for one in found.features}
    assert weights["audio/eGeMAPSv02"] == 0 and 4e6 > weights["visual/denseface"] > 2.5e6
    assert found.peak > 50e6 and 0 < found.seconds < 3600


def test_weights_are_counted_once():
    net = torch.nn.Linear(10, 10, bias=False)
    holder = type("Holder", (), {})()
    holder.net, holder.again, holder.other = net, torch.nn.Sequential(net), torch.nn.Linear(10, 10).to(torch.bfloat16)
    assert weights_of(holder) == 400 + 220


def test_the_command(intact, tmp_path):
    def call(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == code and "Traceback" not in result.output, result.output
        return result.output

    words = ["extract", "meld", intact, "--out", tmp_path / "s.h5", "--feature", "opensmile:eGeMAPSv02", "--dry-run"]
    said = call(*words)
    assert "nothing was written" in said and "audio/eGeMAPSv02" in said and "memory at least" in said
    assert not list(tmp_path.iterdir())
    assert "--shard" in call(*words, "--shard", "1/2", code=2)


def test_a_sample_without_a_feature_is_one_line(tmp_path):
    with pytest.raises(UserError, match="^--dry-run: of the 32 utterances that were measured, no utterance has"):
        estimate(manifest_of([32]), features=("opensmile:eGeMAPSv02",), notify=lambda line: None)


def test_features_from_python_say_all(tmp_path):
    for more in ({"modalities": ("text",)}, {"extractors": ("x",)}):
        with pytest.raises(UserError, match="features say by themselves"):
            extract(manifest_of([2]), tmp_path / "s.h5", features=("opensmile:IS10",), **more)


def test_shares_add_up():
    costs = Costs()
    for name, seconds in (("a", 1.0), ("b", 2.5), ("a", 0.5)):
        costs.add(name, seconds)
    assert [(name, seconds) for name, seconds, _ in costs.shares()] == [("b", 2.5), ("a", 1.5)]
    assert sum(share for _, _, share in costs.shares()) == pytest.approx(1)


def test_crops_of_several_features_have_their_names(intact, tmp_path):
    manifest = read_corpus("meld", intact)
    few = Manifest(manifest.corpus, manifest.labels, manifest.root, manifest.utterances[:3], [])
    features = ("face:denseface@weights=random", "face:denseface@weights=random,name=again")
    extract(few, tmp_path / "s.h5", features=features, save_crops=tmp_path / "crops", notify=lambda line: None, **QUICK)
    names = {path.name for path in (tmp_path / "crops").glob("*.png")}
    assert names and {name.rpartition("--")[2] for name in names} == {"denseface.png", "again.png"}
