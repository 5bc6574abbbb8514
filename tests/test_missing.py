"""Missing modalities: which features are hidden, how models see them in training and at test time, and the study."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from test_train_support import write_store

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.features import read_feature, rows_of
from erc_toolkit.train.data.missing import hidden_at_random
from erc_toolkit.train.loop.evaluation import opened_run
from erc_toolkit.train.loop.plan import fingerprint_of, make_plan, training_data
from erc_toolkit.train.loop.trainer import train
from erc_toolkit.train.scores.coded import decoded
from erc_toolkit.train.studies.measures.missing import missing_scores

FAST = ["train.epochs=3", "model.hidden=16", "model.heads=2"]
presences = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=3)
)


@given(presences, st.floats(0, 1), st.floats(0, 1))
def test_hidden_features(rows, one, other):
    present = {m: np.array(row) for m, row in zip(("text", "audio", "visual"), rows, strict=False)}
    low, high = sorted((one, other))
    few, many = hidden_at_random(present, low), hidden_at_random(present, high)
    for m, there in present.items():
        assert not (few[m] & ~there).any()  # what is absent is not hidden
        assert not (few[m] & ~many[m]).any()  # hidden at a rate, hidden at higher ones
    had = np.any(list(present.values()), 0)
    left = np.any([present[m] & ~many[m] for m in present], 0)
    assert (had == left).all()  # an utterance keeps at least one
    assert not any(x.any() for x in hidden_at_random(present, 0).values())


def test_the_share_is_the_rate_where_nothing_is_kept():
    """Three modalities at 0.5 are all lost with probability 1/8, so that 0.5 - 1/24 of the features are hidden."""
    present = {m: np.ones(40_000, bool) for m in ("text", "audio", "visual")}
    share = np.mean(list(hidden_at_random(present, 0.5).values()))
    assert share == pytest.approx(0.5 - 1 / 24, abs=0.01)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s.h5", noise=1, absent=0.2)


def data_with(store, *changes):
    """Conversations of a training run, its plan and its normalisers."""
    plan = make_plan(store, load_config("demo", [*FAST, *changes]))
    return *training_data(plan, {m: read_feature(store, f) for m, f in plan.features.items()}), plan


@pytest.mark.parametrize("how", ["absent", "zeros"])
def test_training_does_not_see_what_is_hidden(store, how):
    with FeatureStore.open(store) as opened:
        whole, _, plan = data_with(opened)
        data, normalisers, _ = data_with(opened, "data.missing=0.4", f"data.missing_as={how}")
        rows = rows_of(opened.offsets, np.concatenate([plan.division.train, plan.division.val]))
        test = rows_of(opened.offsets, plan.division.test)
        hidden = hidden_at_random({m: x.numpy() for m, x in whole.presence().items()}, 0.4)
        for m, feature in plan.features.items():
            there, shown = whole.presence()[m].numpy(), data.presence()[m].numpy()
            assert (shown[test] == there[test]).all()
            expected = there[rows] & ~hidden[m][rows] if how == "absent" else there[rows]
            assert (shown[rows] == expected).all() and hidden[m][rows].any()
            batch = data.batch(torch.arange(len(opened.offsets) - 1))
            gone = np.zeros(len(opened), bool)
            gone[rows] = hidden[m][rows]
            assert (batch.features[m].numpy()[gone] == 0).all()
            # The statistics are those of what is seen.
            train_rows = rows_of(opened.offsets, plan.division.train)
            seen = train_rows[there[train_rows] & ~hidden[m][train_rows]]
            np.testing.assert_allclose(normalisers[m].mean, feature.values()[seen].mean(0), rtol=1e-5)


def test_default_settings_leave_fingerprints_as_they_were(store):
    """So that runs of earlier versions are resumed and reused."""
    with FeatureStore.open(store) as opened:
        plan = make_plan(opened, load_config("demo", FAST))
        found = fingerprint_of(plan, torch.device("cpu"))["settings"]
        for change in ("data.missing=0.1", "data.missing_as=zeros", "train.track_test=true"):
            other = make_plan(opened, load_config("demo", [*FAST, change]))
            assert fingerprint_of(other, torch.device("cpu"))["settings"] != found


@pytest.mark.parametrize("how", ["absent", "zeros"])
def test_scores_equal_those_of_a_store_without_the_features(store, tmp_path, how):
    """A second store that really lacks them (or has the training mean) gives the same predictions."""
    with FeatureStore.open(store) as opened:
        train(
            opened, load_config("demo", [*FAST, f"data.missing_as={how}"]), tmp_path / "run", "cpu", lambda line: None
        )
    with opened_run(tmp_path / "run", None, "cpu", lambda line: None) as opened:
        found = missing_scores(opened, [0, 0.5])
        present = {m: x.numpy() for m, x in opened.data.presence().items()}

    hidden = hidden_at_random(present, 0.5)
    with opened_run(tmp_path / "run", None, "cpu", lambda line: None) as opened:
        for m, x in opened.data._features.items():
            x[torch.from_numpy(hidden[m])] = 0
            if how == "absent":
                opened.data._present[m] &= ~torch.from_numpy(hidden[m])
        rows = np.flatnonzero(opened.store.column("split") == "test")
        batch = opened.data.batch(torch.arange(len(opened.store.offsets) - 1))
        with torch.no_grad():
            predicted = opened.model.eval()(batch).logits.argmax(1).numpy()[rows]
        true = opened.store.column("label")[rows]
    condition = found["rates"]["0.5"]
    assert (decoded(condition["predicted"]) == predicted).all() and (decoded(found["true"]) == true).all()
    assert condition["weighted_f1"] == pytest.approx(
        f1_score(true[true >= 0], predicted[true >= 0], average="weighted", zero_division=0)
    )
    assert sum(found["dialogues"]) == len(true)
    assert found["rates"]["0"] == found["kept"]["text + audio + visual"]
    assert list(found["kept"])[-3:] == ["text", "audio", "visual"] and len(found["kept"]) == 7


def test_the_study_has_intervals_and_says_what_is_hidden(store, tmp_path):
    (tmp_path / "m.yaml").write_text(
        "title: t\nmeasure: missing\nrates: [0, 0.7]\n"
        "runs: {absent: {}, zeros: {data.missing_as: zeros}, trained: {data.missing: 0.3}}\n"
    )
    options = [part for change in FAST for part in ("--set", change)]
    arguments = ["study", store, "--study", tmp_path / "m.yaml", "--out", tmp_path / "out", "--recipe", "demo"]
    done = CliRunner().invoke(main, [*map(str, arguments), *options, "--seeds", "2", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    study = json.loads((tmp_path / "out/study.json").read_text())
    low, high = study["missing_intervals"]["trained"]["0.7"]
    values = [run["measured"]["rates"]["0.7"]["weighted_f1"] for run in study["variants"][2]["runs"]]
    assert 0 <= low <= sum(values) / 2 <= high <= 1
    hidden = study["variants"][0]["runs"][0]["measured"]["rates"]["0.7"]["hidden"]
    assert 0.4 < hidden < 0.7
    page = CliRunner().invoke(main, ["report", str(tmp_path / "out"), "--out", str(tmp_path / "page.html")])
    assert page.exit_code == 0, page.output
    text = (tmp_path / "page.html").read_text()
    assert "Missing modalities at test time" in text and f"0.7: {100 * hidden:.2f} %" in text


def test_one_modality_cannot_be_missing(tmp_path):
    path = write_store(tmp_path / "s.h5", dims={"text": 8})
    with FeatureStore.open(path) as opened:
        train(opened, load_config("demo", FAST), tmp_path / "run", "cpu", lambda line: None)
    with opened_run(tmp_path / "run", None, "cpu", lambda line: None) as opened:
        with pytest.raises(Exception, match="two or more"):
            missing_scores(opened, [0.5])


@pytest.mark.parametrize("rates", ["[]", "[1]", "[-0.1]", "0.5", "[yes]"])
def test_wrong_rates_are_one_line(tmp_path, store, rates):
    (tmp_path / "m.yaml").write_text(f"title: t\nmeasure: missing\nrates: {rates}\nruns: {{a: {{}}}}\n")
    arguments = ["study", store, "--study", tmp_path / "m.yaml", "--out", tmp_path / "out", "--recipe", "demo"]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 1 and "rates must be" in done.output and "Traceback" not in done.output
