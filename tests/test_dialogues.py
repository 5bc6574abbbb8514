"""`DialogueDataset` returns the contents of the store, in every process that reads it."""

from __future__ import annotations

import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from store_support import flip, place_of
from torch.utils.data import DataLoader

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter
from erc_toolkit.train.data.batch import Conversations
from erc_toolkit.train.data.dialogues import Dialogue, DialogueDataset, PaddedBatch, collate_packed, collate_padded
from erc_toolkit.train.data.features import speaker_indices
from erc_toolkit.train.settings import DataConfig


def write(path, utterances, seed=0):
    """A store of text 8, audio 5 with rows that are masked, and two visual features."""
    rng = np.random.default_rng(seed)
    n = len(utterances)
    with StoreWriter(path, corpus="small", labels=["joy", "sadness"], utterances=utterances) as writer:
        shapes = ("text/roberta-base", 8, 0), ("audio/IS10", 5, 4), ("visual/denseface", 3, 3), ("visual/x", 2, 0)
        for name, dim, masked in shapes:
            present = np.array([not masked or row % masked != 1 for row in range(n)])
            writer.add_feature(
                *name.split("/"), rng.normal(size=(n, dim)), present, ["" if p else "no face" for p in present]
            )
    return path


NAMES = {"text": "text/roberta-base", "audio": "audio/IS10", "visual": "visual/denseface"}


@pytest.fixture
def path(tmp_path, utterances):
    return write(tmp_path / "three.h5", utterances)


def same(a, b) -> bool:
    """Whether two items or batches have the same keys, types, shapes and values."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (str, list, int, tuple)):
        return a == b
    return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in type(a).__dataclass_fields__)


def test_items_equal_the_contents_of_the_store(path):
    dataset = DialogueDataset(path, features=NAMES)
    with FeatureStore.open(path) as store:
        assert len(dataset) == len(store.dialogue_ids) == 9
        assert dataset.dims == {"text": 8, "audio": 5, "visual": 3} and dataset.labels == ["joy", "sadness"]
        for item, (name, rows) in zip(dataset, store.dialogues(), strict=True):
            assert item.id == name and len(item) == rows.stop - rows.start
            assert list(item.features) == list(item.present) == ["text", "audio", "visual"]
            for modality, feature in NAMES.items():
                expected = store.feature(feature)
                assert item.features[modality].dtype == torch.float32 and item.present[modality].dtype == torch.bool
                assert item.features[modality].numpy().tobytes() == expected.values(rows).tobytes()
                assert item.present[modality].tolist() == expected.present(rows).tolist()
            assert item.labels.dtype == item.speakers.dtype == torch.int64
            assert item.labels.tolist() == store.column("label", rows).tolist()
            assert item.texts == store.column("text", rows).tolist()
            assert item.utterances == store.column("id", rows).tolist()
    assert same(dataset[-1], dataset[8]) and not all(item.present["audio"].all() for item in dataset)
    with pytest.raises(IndexError):
        dataset[9]


def test_speakers_are_numbered_in_order_of_appearance(tmp_path, utterances):
    names = iter("CABAC" + "B" * 40)  # of the whole store: C 0, A 1, B 2
    for u in utterances:
        object.__setattr__(u, "speaker", next(names))
    dataset = DialogueDataset(write(tmp_path / "s.h5", utterances), features=NAMES)
    assert [item.speakers.tolist() for item in dataset][:4] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 0, 0, 0],
    ]  # C; AB; ACB; BBBB
    assert dataset.most_speakers == 3


def test_splits(path):
    with FeatureStore.open(path) as store:
        split = store.column("split")
        of = {
            name: [i for i, rows in store.dialogues() if split[rows.start] == name] for name in ("train", "val", "test")
        }
    assert {name: [item.id for item in DialogueDataset(path, name, NAMES)] for name in of} == of
    assert of["val"] == ["d1", "d4", "d7"]
    with pytest.raises(UserError, match="'dev'.*train, val, test"):
        DialogueDataset(path, "dev", NAMES)


def test_an_empty_split_is_reported(tmp_path, utterances):
    path = write(tmp_path / "s.h5", [u for u in utterances if u.split != "val"])
    with pytest.raises(UserError, match="'val'.*train 3, val 0, test 3"):
        DialogueDataset(path, "val", NAMES)


def test_choice_of_features(path, store_path):
    assert DialogueDataset(store_path).dims == {"text": 8, "audio": 700}  # the only one of each modality, text first
    assert DialogueDataset(path, features=["visual/x", "text/roberta-base"]).dims == {"visual": 2, "text": 8}
    both = DialogueDataset(path, features={"face": "visual/denseface", "scene": "visual/x"})
    assert both.dims == {"face": 3, "scene": 2} and list(both[0].present) == ["face", "scene"]
    for features in (None, ["visual/denseface", "visual/x"]):
        with pytest.raises(UserError, match="visual/denseface.*visual/x"):
            DialogueDataset(path, features=features)
    for features in (["audio/eGeMAPS"], {"audio": "audio/eGeMAPS"}, "audio/eGeMAPS"):
        with pytest.raises(UserError, match="'audio/eGeMAPS'.*audio/IS10, text/roberta-base"):
            DialogueDataset(path, features=features)
    with pytest.raises(UserError, match=r"\.h5: no feature.*audio/IS10"):
        DialogueDataset(path, features=[])
    with pytest.raises(UserError, match=r"\.h5: .*store"):
        DialogueDataset(path.with_name("none.h5"))


def test_packed_batches_are_accepted_by_models(path):
    dataset = DialogueDataset(path, features=NAMES)
    with FeatureStore.open(path) as store:
        features = {m: store.feature(name) for m, name in NAMES.items()}
        expected = Conversations(
            {m: f.values() for m, f in features.items()},
            {m: f.present() for m, f in features.items()},
            speaker_indices(store, DataConfig()).index,
            store.column("label"),
            store.offsets,
        ).batch(torch.tensor([4, 0, 8]))
    assert same(collate_packed([dataset[i] for i in (4, 0, 8)]), expected)


def test_padded(path):
    dataset = DialogueDataset(path, features=NAMES)
    items = [dataset[i] for i in (4, 0, 8)]
    padded, packed = collate_padded(items), collate_packed(items)
    assert len(padded) == 3 and padded.lengths.tolist() == padded.mask.sum(1).tolist() == [5, 1, 9]
    assert {m: tuple(x.shape) for m, x in padded.features.items()} == {
        "text": (3, 9, 8),
        "audio": (3, 9, 5),
        "visual": (3, 9, 3),
    }
    for name in ("features", "present"):
        for m, x in getattr(padded, name).items():
            assert same(x[padded.mask], getattr(packed, name)[m]) and not x[~padded.mask].any()
    for name, filling in (("speakers", 0), ("labels", -1)):
        x = getattr(padded, name)
        assert same(x[padded.mask], getattr(packed, name)) and (x[~padded.mask] == filling).all()
    elsewhere = padded.to("meta")
    tensors = [
        *elsewhere.features.values(),
        *elsewhere.present.values(),
        elsewhere.speakers,
        elsewhere.labels,
        elsewhere.mask,
    ]
    assert {x.device.type for x in (*tensors, elsewhere.lengths)} == {"meta"}
    assert [x.shape for x in tensors[:3]] == [x.shape for x in padded.features.values()] and tensors[-1].shape == (3, 9)


@pytest.mark.parametrize("collate", [collate_packed, collate_padded])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same_items(path, collate, start):
    dataset = DialogueDataset(path, features=NAMES)
    expected = list(DataLoader(dataset, 2, collate_fn=collate))  # this process has read items before the workers start
    loader = DataLoader(dataset, 2, collate_fn=collate, num_workers=2, multiprocessing_context=start)
    read = list(loader)
    assert len(read) == len(expected) == 5 and all(same(a, b) for a, b in zip(read, expected, strict=True))
    assert same(collate([dataset[0], dataset[1]]), expected[0])  # and its own file is still open
    if collate is collate_padded:
        assert isinstance(read[0], PaddedBatch)


def test_every_process_opens_the_file_itself_and_once(path, tmp_path, monkeypatch):
    log, really = tmp_path / "log", FeatureStore.open
    dataset = DialogueDataset(path, features=NAMES)

    def opened(name):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        return really(name)

    monkeypatch.setattr("erc_toolkit.train.data.dialogues.FeatureStore.open", opened)
    list(dataset)
    assert log.read_text().split() == [str(os.getpid())]
    list(DataLoader(dataset, 2, collate_fn=collate_packed, num_workers=2, multiprocessing_context="fork"))
    list(dataset)
    pids = log.read_text().split()
    assert len(pids) == len(set(pids)) == 3 and pids[0] == str(os.getpid())
    dataset.close()
    assert same(dataset[2], next(iter(DataLoader(dataset, None, sampler=[2])))) and len(log.read_text().split()) == 4


def test_pickled_after_use(path):
    dataset = DialogueDataset(path, "train", NAMES)
    first = dataset[0]
    other = pickle.loads(pickle.dumps(dataset))
    assert len(other) == 3 and all(same(a, b) for a, b in zip(other, dataset, strict=True)) and same(dataset[0], first)
    assert isinstance(pickle.loads(pickle.dumps(first)), Dialogue)


def test_a_relative_path_is_found_from_another_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    dataset = DialogueDataset(path.name, features=NAMES)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert dataset[0].id == "d0"


def test_a_replaced_or_damaged_store_is_reported(path, tmp_path, utterances):
    dataset = DialogueDataset(path, features=NAMES)
    shutil.copy(path, tmp_path / "kept.h5")
    write(path, utterances, seed=1)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*replaced"):
        dataset[0]
    shutil.copy(tmp_path / "kept.h5", path)
    assert dataset[0].id == "d0"
    dataset.close()
    flip(path, place_of(path, "features/audio/IS10/values"))
    for how in ({}, {"num_workers": 1, "multiprocessing_context": "fork"}):
        with pytest.raises(UserError, match="audio/IS10/values is damaged"):
            list(DataLoader(dataset, 2, collate_fn=collate_packed, **how))
