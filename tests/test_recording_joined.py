"""`predict` with a model that joins features of several extractions, which `--feature` makes in one pass."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.predict.predictor import Predictor
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.inference.turn_classifier import extraction_of

FEATURES = ("opensmile:eGeMAPS", "opensmile:IS09@name=nine", "opensmile:GeMAPS")
JOIN = "data.audio={concat: [eGeMAPS, nine, GeMAPS]}"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(intact, tmp_path_factory):
    root = tmp_path_factory.mktemp("joined")
    lines = [word for feature in FEATURES for word in ("--feature", feature)]
    run("extract", "meld", intact, "--out", root / "s.h5", *lines)
    recipe = ("--recipe", "demo", "--model", "bigru", "--set", "train.epochs=1", "--set", JOIN)
    run("train", root / "s.h5", "--out", root / "run", *recipe)
    return root


@pytest.fixture(scope="module")
def clip(intact, trained):
    """A clip of the corpus, with its one turn as a transcript."""
    row = next(csv.DictReader((intact / "test_sent_emo.csv").read_text(encoding="utf-8").splitlines()))
    name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
    with FeatureStore.open(trained / "s.h5") as store:
        at = store.column("id").tolist().index(f"test_{name}")
        seconds = float(store.feature("audio/nine").details()["seconds"][at])
    turns = trained / "turns.csv"
    turns.write_text(f"start,end,speaker,text\n0,{seconds:.3f},{row['Speaker']},Hello there.\n", encoding="utf-8")
    return next((intact / "output_repeated_splits_test").glob(f"{name}.mp4")), turns, at


def test_every_extraction_is_recorded_and_made_again(trained, clip, tmp_path):
    """The features of a clip are those that the store has of it."""
    recorded, _ = extraction_of(trained / "run")
    assert [(key, options["audio_set"]) for key, options in recorded.items()] == [
        ("audio", "eGeMAPS"),
        ("audio 2", "IS09"),
        ("audio 3", "GeMAPS"),
    ]
    path, turns, row = clip
    run("predict", trained / "run", path, "--transcript", turns, "--out", tmp_path / "p")
    with FeatureStore.open(trained / "s.h5") as store, FeatureStore.open(tmp_path / "p" / "features.h5") as made:
        assert made.feature_names() == ["audio/GeMAPS", "audio/eGeMAPS", "audio/nine"]
        for name in made.feature_names():
            np.testing.assert_allclose(made.feature(name).values()[0], store.feature(name).values()[row], rtol=2e-3)
    found = json.loads((tmp_path / "p" / "turns.json").read_text(encoding="utf-8"))
    assert len(found["turns"]) == 1 and sum(found["turns"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_a_package_of_it_predicts_the_same(trained, clip, tmp_path):
    path, turns, _ = clip
    run("package", trained / "run", "--out", tmp_path / "package")
    (own,), (packed,) = (
        Predictor(trained / "run").predict(path, turns),
        Predictor(tmp_path / "package").predict(path, turns),
    )
    assert own.probabilities == packed.probabilities


def test_a_stream_refuses_it_with_one_line(trained, clip):
    path, turns, _ = clip
    words = run("predict", trained / "run", path, "--transcript", turns, "--live", code=1)
    assert "joins audio features of several extractions" in words and len(words.strip().splitlines()) < 6
