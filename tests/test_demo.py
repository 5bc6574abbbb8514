"""The demo as a new user runs it, and what its results must show."""

from __future__ import annotations

import json
import statistics

import pytest
from click.testing import CliRunner

from erc_toolkit.toolkit.commands.main import main

pytestmark = [pytest.mark.slow, pytest.mark.long]


def run(*arguments) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "here"
    return folder, run("demo", folder)


def test_it_writes_what_it_reports(demo):
    folder, output = demo
    assert (folder / "raw" / "train_splits").is_dir() and (folder / "run" / "model.safetensors").is_file()
    found = json.loads(run("info", folder / "store.h5", "--json", "--verify"))
    assert found["corpus"] == "meld" and found["utterances"] > 350
    for feature in found["features"].values():
        assert feature["present"] > 0.98 * found["utterances"]
    assert {name.split("/")[0] for name in found["features"]} == {"text", "audio", "visual"}
    assert "untrained" in output and "weighted F1" in output and str(folder / "store.h5") in output
    assert found["made"]["command"].startswith("erc-toolkit extract meld")


def test_every_modality_contributes_and_all_together_are_best(demo, tmp_path):
    """Over two seeds: all modalities reach twice the majority baseline, and each alone exceeds it in both."""
    folder, _ = demo
    scores: dict[str, list[float]] = {}
    for name in ("text,audio,visual", "text", "audio", "visual"):
        for seed in range(2):
            out = tmp_path / f"{name}-{seed}"
            chosen = f"data.modalities=[{name}]"
            run("train", folder / "store.h5", "--out", out, "--recipe", "demo", "--seed", seed, "--set", chosen)
            result = json.loads(run("eval", out, "--json"))
            scores.setdefault(name, []).append(result["weighted_f1"])
            majority = result["majority_weighted_f1"]
    mean = {name: statistics.mean(values) for name, values in scores.items()}
    print({name: [round(v, 3) for v in values] for name, values in scores.items()}, f"majority {majority:.3f}")
    assert min(scores["text,audio,visual"]) >= 2 * majority
    for name in ("text", "audio", "visual"):
        assert majority < min(scores[name]) and mean[name] < mean["text,audio,visual"]
