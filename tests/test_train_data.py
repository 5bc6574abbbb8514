"""From the store to batches: features, speakers, splits, normalisation."""

import h5py
import numpy as np
import pytest
import torch
from store_support import replace_values
from test_train_support import DIMS, TINY, rows, write_store

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter
from erc_toolkit.train.config import Config
from erc_toolkit.train.data.batch import Conversations
from erc_toolkit.train.data.features import (
    Normaliser,
    choose_features,
    conversations,
    divide,
    divide_for_training,
    fit_normalisers,
    read_feature,
    speaker_indices,
)
from erc_toolkit.train.loop.evaluation import predict
from erc_toolkit.train.loop.plan import make_plan
from erc_toolkit.train.settings import DataConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with FeatureStore.open(write_store(tmp_path_factory.mktemp("data") / "s.h5")) as opened:
        yield opened


def small_store(path, rows, features=("text/a",), labels=("x", "y")):
    """A store of (dialogue, speaker, label, split) rows with features of ones."""
    utterances, seen = [], {}
    for i, (dialogue, speaker, label, split) in enumerate(rows):
        seen[dialogue] = seen.get(dialogue, -1) + 1
        utterances.append(Utterance(f"u{i}", dialogue, seen[dialogue], speaker, "", label, split))
    n = len(rows)
    with StoreWriter(path, corpus="c", labels=list(labels), utterances=utterances) as writer:
        for name in features:
            writer.add_feature(*name.split("/"), np.ones((n, 2), np.float32), np.ones(n, bool), [""] * n)
    return FeatureStore.open(path)


def test_batches_contain_the_rows_of_their_dialogues(store):
    matrices = {m: read_feature(store, f) for m, f in choose_features(store, DataConfig()).items()}
    speakers = speaker_indices(store, DataConfig())
    labels = store.column("label")
    data = Conversations(
        {m: v for m, (v, _) in matrices.items()},
        {m: p for m, (_, p) in matrices.items()},
        speakers.index,
        labels,
        store.offsets,
    )
    chosen = (5, 0, 30)
    batch = data.batch(torch.tensor(chosen))
    assert len(batch) == 3 and batch.offsets[0] == 0 and batch.offsets[-1] == len(batch.labels)
    for number, dialogue in enumerate(chosen):
        part, kept = rows(batch, number), slice(*store.offsets[dialogue : dialogue + 2])
        assert (batch.dialogue[part] == number).all()
        assert (batch.labels[part].numpy() == labels[kept]).all()
        assert (batch.speakers[part].numpy() == speakers.index[kept]).all()
        for m, (values, present) in matrices.items():
            assert (batch.features[m][part].numpy() == values[kept]).all()
            assert (batch.present[m][part].numpy() == present[kept]).all()


def test_features_are_chosen_by_name_or_if_they_are_the_only_one(tmp_path):
    with small_store(tmp_path / "s.h5", [("d", "s", "x", "train")], ("text/a", "audio/b", "audio/c")) as store:
        assert [f.name for f in choose_features(store, DataConfig(audio="c")).values()] == ["text/a", "audio/c"]
        assert [f.name for f in choose_features(store, DataConfig(audio="audio/b")).values()] == ["text/a", "audio/b"]
        assert list(choose_features(store, DataConfig(modalities=["text"]))) == ["text"]
        for config, message in (
            (DataConfig(), r"s\.h5: .*audio/b, audio/c.*--set data\.audio=NAME"),
            (DataConfig(audio="x"), r"s\.h5: .*'audio/x'.*data\.audio.*audio/b, audio/c"),
            (DataConfig(audio="b", visual="v"), r"s\.h5: .*'visual/v'.*data\.visual.*no visual feature"),
            (
                DataConfig(modalities=["text", "visual"]),
                r"s\.h5: .*no visual feature.*--set data\.modalities=text,audio",
            ),
        ):
            with pytest.raises(UserError, match=message):
                choose_features(store, config)
    with small_store(tmp_path / "e.h5", [("d", "s", "x", "train")], ()) as store:
        with pytest.raises(UserError, match=r"e\.h5: .*text, audio or visual"):
            choose_features(store, DataConfig())


def test_speakers_by_appearance_in_the_dialogue_or_by_corpus(tmp_path):
    rows = [("d", s, "x", "train") for s in "BAB"] + [("e", s, "x", "train") for s in "CAC"]
    with small_store(tmp_path / "s.h5", rows) as store:
        by_dialogue = speaker_indices(store, DataConfig())
        assert by_dialogue.index.tolist() == [0, 1, 0, 0, 1, 0] and by_dialogue.slots == 2 and by_dialogue.names == []
        by_corpus = speaker_indices(store, DataConfig(speakers="corpus"))
        assert by_corpus.index.tolist() == [0, 1, 0, 2, 1, 2] and by_corpus.names == ["B", "A", "C"]
        assert speaker_indices(store, DataConfig(speaker_slots=9)).slots == 9
        with pytest.raises(UserError, match=r"s\.h5: 2 speakers in one dialogue.*data\.speaker_slots is 1"):
            speaker_indices(store, DataConfig(speaker_slots=1))
        with pytest.raises(UserError, match=r"s\.h5: 3 speakers in the store.*data\.speakers=dialogue"):
            speaker_indices(store, DataConfig(speakers="corpus", speaker_slots=2))


def test_validation_uses_the_stores_split_if_it_has_one(store):
    division = divide_for_training(store, DataConfig(), best_on_test=False)
    split = store.column("split")[store.offsets[:-1]]
    assert (split[division.val] == "val").all() and len(division.val) == 6 and division.held_out == []
    assert (split[division.train] == "train").all() and (split[division.test] == "test").all()


def test_validation_is_held_out_from_training_otherwise(tmp_path):
    with FeatureStore.open(write_store(tmp_path / "s.h5", sizes={"train": 25, "test": 3})) as store:
        first, second = (divide_for_training(store, DataConfig(), best_on_test=False) for _ in range(2))
        assert len(first.val) == 2 and len(first.train) == 23 and not set(first.val) & set(first.train)
        assert first.held_out == second.held_out == [store.dialogue_ids[d] for d in first.val]
        again = divide(store, first.held_out)
        assert (again.val == first.val).all() and (again.train == first.train).all()
        assert len(divide_for_training(store, DataConfig(val_fraction=0.999), best_on_test=False).train) == 1


def test_best_on_test_also_trains_on_validation_dialogues(store):
    division = divide_for_training(store, DataConfig(), best_on_test=True)
    assert len(division.train) == 30 and len(division.val) == 0


@pytest.mark.parametrize(
    "rows, best_on_test, message",
    [
        ([("d", "s", None, "train"), ("e", "s", "x", "val")], False, "no labelled dialogue in the train split"),
        ([("d", "s", "x", "test")], False, "no labelled dialogue in the train split"),
        ([("d", "s", "x", "train"), ("e", "s", None, "train")], False, "one labelled training dialogue"),
        ([("d", "s", "x", "train"), ("e", "s", None, "test")], True, "no labelled test dialogue"),
    ],
)
def test_splits_that_cannot_be_trained_on(tmp_path, rows, best_on_test, message):
    with small_store(tmp_path / "s.h5", rows) as store, pytest.raises(UserError, match=message):
        divide_for_training(store, DataConfig(), best_on_test)


def test_a_store_without_label_names_cannot_be_trained_on(tmp_path):
    with small_store(tmp_path / "s.h5", [("d", "s", None, "train")] * 2, labels=()) as store:
        with pytest.raises(UserError, match=r"s\.h5: .*no labels"):
            make_plan(store, Config())


def test_predictions_do_not_depend_on_the_batch_size(store):
    config = Config(model=TINY)
    plan = make_plan(store, config)
    matrices = {m: read_feature(store, f) for m, f in plan.features.items()}
    data = conversations(store, matrices, fit_normalisers(matrices, np.arange(len(store)), "zscore"), plan.speakers)
    torch.manual_seed(0)
    model, dialogues = plan.model(), np.arange(len(store.dialogue_ids))
    one, many = predict(model, data, dialogues, 1), predict(model, data, dialogues[::-1].copy(), 100)
    assert (one.rows == np.arange(len(store))).all() and (many.rows == one.rows).all()
    assert np.allclose(one.probabilities, many.probabilities, atol=1e-6)
    rough = predict(model, data, dialogues, 100, "bfloat16")
    assert 0 < np.abs(rough.probabilities - many.probabilities).max() < 0.02


def test_a_dialogue_in_two_splits_is_rejected(tmp_path):
    rows = [("d", "s", "x", "train"), ("e", "s", "x", "val"), ("e", "s", "x", "test")]
    with small_store(tmp_path / "s.h5", rows) as store:
        with pytest.raises(UserError, match=r"s\.h5: dialogue 'e'.*\(val, test\)"):
            divide(store)


def test_normaliser_is_fitted_on_its_rows_and_drops_constants():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 5)).astype(np.float32) * [1, 1e-6, 1e6, 0, 1] + [3, 0, 5e6, 0.1, 0]
    values = values.astype(np.float32)
    values[4000:] = 99
    rows = np.arange(0, 4000, 2)
    normaliser = Normaliser.fit(values, rows)
    expected = (values[rows] - values[rows].mean(0, dtype=np.float64)) / values[rows].std(0, dtype=np.float64).clip(
        1e-9
    )
    normaliser.apply(values)
    assert np.allclose(values[rows][:, [0, 1, 2, 4]], expected[:, [0, 1, 2, 4]], atol=1e-4)
    assert (values[:, 3] == 0).all()  # constant in training: carries no information, and must not be inflated elsewhere
    assert np.isfinite(values).all()


def test_normaliser_of_no_rows_and_of_one():
    for chosen in ([], [0]):
        values = np.array([[2.0, 3.0], [5.0, 7.0]], np.float32)
        Normaliser.fit(values, np.array(chosen, int)).apply(values)
        assert (values == 0).all()


def test_infinite_features_are_named(tmp_path):
    path = tmp_path / "s.h5"
    small_store(path, [("d", "s", "x", "train")] * 8).close()
    with h5py.File(path, "r+") as file:
        matrix = file["features/text/a/values"][:]
        matrix[1, 0], matrix[6, 1] = np.nan, np.inf
        replace_values(file["features/text/a"], matrix)
    with FeatureStore.open(path) as store:
        with pytest.raises(UserError, match=r"s\.h5: text/a .*NaN.* 2 utterances \(u1, u6\)"):
            read_feature(store, store.feature("text/a"))


def test_absent_rows_are_zero_whatever_their_values(store):
    for modality in DIMS:
        values, present = read_feature(store, store.feature(f"{modality}/{modality}_x"))
        assert (values[~present] == 0).all() and (values[present] != 0).any(1).all()
