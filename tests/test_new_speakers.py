"""Trained models on people whom they do not know, and more of them: who is the same person is all that graphs ask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_support import packing, write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.predict.predictor import media_beside
from erc_toolkit.toolkit.predict.turns import Media, Turn
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.api import evaluate, train
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.data.speakers import BEYOND, CHOSEN, NAMED, ORDER, LearnedSpeakers, give_speakers
from erc_toolkit.train.inference.turn_classifier import TurnClassifier
from erc_toolkit.train.layers.relations.relational import RelationalGraph, relations_of_people
from erc_toolkit.train.layers.speakers import SpeakerEmbedding
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.registry import MODELS
from erc_toolkit.train.reports.recording_page import clock, recording_page

DIMS = {"text": 8, "audio": 6, "visual": 4}
# They have speaker embeddings, but do not ask who is the same person; DF-GCN's released code compares texts for that.
_WITHOUT_PEOPLE = ("df-gcn", "m3net", "mmgcn", "sdt", "transformer")
SMALL = {"amb-dsgdn": ["model.hidden=16", "model.heads=2"]}


def model_of(name: str, speakers: int = 2):
    torch.manual_seed(0)
    config = load_config("iemocap", [f"model.name={name}", *SMALL.get(name, [])])
    dims = DIMS if name != "df-gcn" else {**DIMS, "text": 8 * (config.model.text_layers or 1)}
    return build_model(config, dims, speakers, np.ones(6)).double().eval(), dims


def batch_of(dims, people, speakers, lengths) -> Batch:
    n, generator = sum(lengths), torch.Generator().manual_seed(1)
    features = {m: torch.randn(n, d, generator=generator, dtype=torch.float64) for m, d in dims.items()}
    present = {m: torch.ones(n, dtype=torch.bool) for m in dims}
    labels = torch.zeros(n, dtype=torch.long)
    return Batch(features, present, torch.tensor(speakers), labels, *packing(lengths), people=torch.tensor(people))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_takes_any_number_of_people_and_cares_only_who_is_the_same(name):
    model, dims = model_of(name)
    learned = model.speaker_use
    assert learned in ("none", "identity", "embedding")
    names = ["Ann", "Bob", "Cy", "Dee", "Ann", "Cy", "Dee", "Bob"]
    people, speakers = [0, 1, 2, 3, 0, 2, 3, 1], [0, 1, -1, -1, 0, -1, -1, 1]
    with torch.no_grad():
        logits = model(batch_of(dims, people, speakers, [len(names)])).logits
        # Two unknown people may change numbers.
        swapped = model(batch_of(dims, [{2: 3, 3: 2}.get(p, p) for p in people], speakers, [8])).logits
        assert torch.isfinite(logits).all() and torch.allclose(logits, swapped, atol=1e-9)
        # They are two people, not one.
        merged = model(batch_of(dims, [min(p, 2) for p in people], speakers, [8])).logits
        assert torch.allclose(logits, merged, atol=1e-9) == (learned == "none" or name in _WITHOUT_PEOPLE)
        # A dialogue does not depend on the people of another, whose numbers are the same.
        doubled = {m: torch.cat([x, x.flip(0)]) for m, x in batch_of(dims, people, speakers, [8]).features.items()}
        batch = batch_of(dims, people * 2, speakers + [1, 0, 0, 1, 1, 0, 1, 0], [8, 8])
        batch.features = doubled
        assert torch.allclose(model(batch).logits[:8], logits, atol=1e-9)
        # Whom a model knows, it takes as in training.
        known = batch_of(dims, [0, 1, 0, 1], [0, 1, 0, 1], [4])
        plain = Batch(
            known.features, known.present, torch.tensor([0, 1, 0, 1]), known.labels, known.dialogue, known.offsets
        )
        assert torch.equal(model(known).logits, model(plain).logits)


def test_unknown_speakers_have_the_mean_embedding_outside_training():
    table = SpeakerEmbedding(3, 4, padding=True)
    with torch.no_grad():
        table.weight[:3] = torch.arange(12.0).view(3, 4)
    table.eval()
    found = table(torch.tensor([2, -1, 3]))
    assert torch.equal(found[0], table.weight[2]) and torch.equal(found[2], torch.zeros(4))
    assert torch.allclose(found[1], torch.tensor([4.0, 5, 6, 7]))
    table.train()
    with pytest.raises(IndexError):
        table(torch.tensor([-1]))


def slow_relation(table, speakers, j, i):
    """From j to i: the mean of every learned relation that may be theirs."""
    count, a, b = len(table), speakers[j], speakers[i]
    if count == 1:
        return table[0, 0]
    if i == j:
        return table[a, a] if a >= 0 else np.mean([table[s, s] for s in range(count)], 0)
    sources, targets = (range(count) if s < 0 else [s] for s in (a, b))
    if a == b:
        sources = targets = range(count)
    return np.mean([table[s, t] for s in sources for t in targets if s != t], 0)


@pytest.mark.parametrize(
    ("count", "speakers"), [(2, [0, 1, -1, -1]), (3, [2, -1, 0, 2]), (1, [0, -1]), (4, [-1, -1]), (3, [1, 1, 1])]
)
def test_relations_of_unknown_people(count, speakers):
    table = np.random.default_rng(0).normal(size=(count, count, 2, 5))
    got = relations_of_people(torch.from_numpy(table), torch.tensor(speakers)).numpy()
    for j in range(len(speakers)):
        for i in range(len(speakers)):
            assert np.allclose(got[j, i], slow_relation(table, speakers, j, i)), (j, i)


def test_people_of_different_dialogues_with_one_number_may_have_different_speakers():
    graph = RelationalGraph(torch.tensor([0, -1, 1]), torch.tensor([0, 0, 1]), 5, 5, 2, torch.tensor([0, 2, 2]))
    assert graph.speakers.tolist() == [0, -1, 1] and not graph.distinct
    assert RelationalGraph(torch.tensor([1, 0]), torch.tensor([0, 0]), 5, 5, 2).distinct


IEMOCAP = LearnedSpeakers.of("embedding", {"slots": 2, "names": ["F", "M"]})
MELD = LearnedSpeakers.of("embedding", {"slots": 2, "names": []})


@pytest.mark.parametrize(
    ("learned", "chosen", "names", "index", "people", "why"),
    [
        (IEMOCAP, {}, "FMF", [0, 1, 0], [0, 1, 0], [NAMED, NAMED]),
        (IEMOCAP, {}, "MABA", [1, 0, -1, 0], [1, 0, 2, 0], [NAMED, ORDER, BEYOND]),
        (IEMOCAP, {"B": "F"}, "ABC", [1, 0, -1], [1, 0, 2], [ORDER, CHOSEN, BEYOND]),
        (IEMOCAP, {"A": "F", "B": "F"}, "ABAC", [0, 0, 0, 1], [0, 2, 0, 1], [CHOSEN, CHOSEN, ORDER]),
        (MELD, {}, "BAC", [0, 1, -1], [0, 1, 2], [ORDER, ORDER, BEYOND]),
        (MELD, {"C": "1"}, "BAC", [1, -1, 0], [1, 2, 0], [ORDER, BEYOND, CHOSEN]),
    ],
)
def test_who_is_taken_for_whom(learned, chosen, names, index, people, why):
    given = give_speakers(list(names), [0, len(names)], learned, "t.srt", chosen)
    assert given.speakers.index.tolist() == index and given.speakers.people.tolist() == people
    assert [reason for _, reason in given.why[0].values()] == why
    assert json.loads(json.dumps(given.facts()))["given"].keys() == set(names)


def test_choices_that_cannot_be_are_named():
    for use, chosen, facts in (
        ("embedding", {"Zed": "F"}, ("Zed=F", "Ann")),
        ("embedding", {"Ann": "X"}, ("Ann=X", "F, M")),
        ("none", {"Ann": "F"}, ("--speaker", "omit")),
        ("identity", {"Ann": "F"}, ("--speaker", "omit")),
    ):
        with pytest.raises(UserError) as error:
            give_speakers(["Ann", "Bob"], [0, 2], IEMOCAP._replace(use=use), "t.srt", chosen)
        assert all(fact in error.value.message for fact in facts)
    with pytest.raises(UserError, match=r"t\.srt: 3 speakers.*'C'"):  # another package's model, without such a rule
        give_speakers(list("ABC"), [0, 3], IEMOCAP._replace(use="index"), "t.srt")
    assert give_speakers(list("ABC"), [0, 3], IEMOCAP._replace(use="none"), "t.srt").note() == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run whose model has learned two speakers of its corpus, F and M."""
    root = tmp_path_factory.mktemp("trained")
    store = write_store(root / "s.h5", speakers=("F", "M"))
    small = {"train.epochs": 2, "model.hidden": 8, "model.heads": 2, "data.speakers": "corpus", "data.speaker_slots": 2}
    train(store, root / "run", recipe="demo", settings=small, notify=lambda _: None)
    return root


def test_evaluation_on_other_speakers_says_what_it_does(trained, tmp_path):
    said: list[str] = []
    own = evaluate(trained / "run", notify=said.append)
    assert not [line for line in said if "order of appearance" in line]
    # The same people under other names, in the order of the dialogue: only the names' order may matter.
    renamed = write_store(tmp_path / "r.h5", speakers=("Zoë", "Abe"))
    other = evaluate(trained / "run", renamed, notify=said.append)
    note = next(line for line in said if "order of appearance" in line)
    assert "2 speakers" in note and other["utterances"] == own["utterances"]
    many = write_store(tmp_path / "m.h5", speakers=("a", "b", "c", "d", "e"))
    said.clear()
    evaluate(trained / "run", many, notify=said.append)
    assert "mean" in next(line for line in said if "order of appearance" in line)
    judge = TurnClassifier(trained / "run", "cpu", said.append)
    said.clear()
    with FeatureStore.open(many) as store:
        turns, batch = judge.turns(store)
        assert len(turns) == len(store) and (batch.speakers < 0).any() and batch.people.max() > 1
        assert any("mean" in line for line in said)
        # Turn by turn, from the past alone, the people are the same ones.
        assert len(judge.turns(store, causal=True)[0]) == len(turns)


def test_reasons_of_absent_modalities_are_the_extractions_own(trained):
    judge = TurnClassifier(trained / "run", "cpu", lambda _: None)
    with FeatureStore.open(trained / "s.h5") as store:
        present = [store.feature(name) for name in store.feature_names()]
        reasons = {"visual": [f"no face {i}" for i in range(len(store))]}

        class Without:
            """The store without its video."""

            def __getattr__(self, name):
                return getattr(store, name)

            def __len__(self):
                return len(store)

            def feature_names(self):
                return [f.name for f in present if not f.name.startswith("visual/")]

        turns, _ = judge.turns(Without(), False, None, reasons)  # pyright: ignore[reportArgumentType]
    assert [t.missing["visual"] for t in turns] == reasons["visual"]


def test_a_card_says_what_a_model_expects(trained, tmp_path):
    for use, facts in (("embedding", ("F, M", "--speaker", "mean")), ("identity", ("Any number",)), ("none", ("not",))):
        assert all(fact in IEMOCAP._replace(use=use).describe() for fact in facts)
    assert "first 2 speakers" in MELD.describe()


def _turns(texts, speakers=("Ann", "عمر", "Bob")) -> list[Turn]:
    return [
        Turn(f"t{i}", speakers[i % len(speakers)], text, 1.5 * i, 1.5 * i + 1, ("joy", "neutral")[i % 2], 0.6,
             {"joy": 0.6, "neutral": 0.4}, {}, {"visual": "no video track"} if i else {})
        for i, text in enumerate(texts)
    ]  # fmt: skip


def test_the_page_has_only_what_the_model_has(tmp_path):
    media = Media("a b.mp4", "../a%20b.mp4", True)
    page = recording_page(media, _turns(["Hi", "مرحبا", "<script>alert(1)</script>"]), {}, [], ["joy", "neutral"], "x")
    assert '<video id="player"' in page and 'src="../a%20b.mp4"' in page and "media-src" in page
    assert "<script>alert" not in page and page.count("<rect") == 3 and 'dir="auto"' in page
    assert 'id="graph"' not in page and "attends" not in page and "modality alone" not in page
    assert "no video track" in page and "as reliable" not in page and "eval" in page
    edges = {"text": {"inter": [[0, 1, 500, 300, 200]]}}
    assert 'id="graph"' in recording_page(media, _turns(["a", "b"]), edges, [], ["joy", "neutral"], "x")
    silent = recording_page(Media("a.wav", "", False), _turns(["a"]), {}, [], ["joy", "neutral"], "x")
    assert "<audio" not in silent and "No player" in silent and "media-src" not in silent
    crowd = recording_page(media, _turns(["a"] * 40, [f"p{i}" for i in range(20)]), {}, [], ["joy", "neutral"], "x")
    assert crowd.count('<div class="lane">') == 13 and "8 others not shown" in crowd


def test_the_link_to_the_recording_is_relative(tmp_path):
    (tmp_path / "out").mkdir()
    for name, link in (("a b#?.mp4", "../a%20b%23%3F.mp4"), ("ü.wav", "../%C3%BC.wav")):
        (tmp_path / name).write_bytes(b"x")
        assert media_beside(tmp_path / name, tmp_path / "out") == Media(name, link, False)
    (tmp_path / "out" / "c:d.wav").write_bytes(b"x")
    assert media_beside(tmp_path / "out" / "c:d.wav", tmp_path / "out").link == "./c%3Ad.wav"


@pytest.mark.parametrize(
    "seconds, shown",
    [(0, "0:00.0"), (0.8, "0:00.8"), (59.94, "0:59.9"), (59.97, "1:00"), (65.9, "1:06"), (3661, "1:01:01")],
)
def test_a_time_below_a_minute_has_tenths(seconds, shown):
    assert clock(seconds) == shown
