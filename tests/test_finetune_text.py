"""Fine-tuning a tiny encoder on a task that can be learned: which kind of word a sentence contains."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.tuning.text import Recipe, finetune, read_texts
from erc_toolkit.toolkit.base.errors import Interrupted, UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.store import StoreWriter

WORDS = {"joy": ["happy", "glad", "great"], "anger": ["furious", "hate", "mad"], "sadness": ["sad", "lonely", "cry"]}
FILL = "the a we you they it was so very today here then with my your and".split()


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """(manifest file, start encoder): three labels of equal size, so that chance is a third."""
    folder, rng = tmp_path_factory.mktemp("task"), random.Random(0)
    utterances = []
    for i in range(240):
        label = list(WORDS)[i % 3]
        words = [rng.choice(FILL) for _ in range(4)]
        words.insert(rng.randrange(5), rng.choice(WORDS[label]))
        dialogue = i // 6
        split = "val" if dialogue % 4 == 3 else "test" if dialogue % 8 == 6 else "train"
        utterances.append(Utterance(f"u{i}", f"d{dialogue}", i % 6, "Ann", " ".join(words), label, split))
    utterances[0] = Utterance("u0", "d0", 0, "Ann", "", "joy", "train")
    utterances[1] = Utterance("u1", "d0", 1, "Ann", "no label", None, "train")
    manifest = Manifest("toy", list(WORDS), folder, utterances)
    write_manifest(manifest, folder / "manifest.jsonl")
    start = make_text_encoder(folder / "start", [u.text for u in utterances if u.split == "train"], layers=4)
    return folder / "manifest.jsonl", start


QUICK = Recipe(epochs=6, lr=1e-3, batch=16, micro_batch=16)


@pytest.fixture(scope="module")
def tuned(task, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "roberta-toy"
    manifest, start = task
    return out, finetune(manifest, str(start), out, QUICK, "cpu", notify=lambda line: None)


def test_it_learns_and_keeps_its_best_epoch(task, tuned):
    out, best = tuned
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert best == max(lines, key=lambda line: (line["val_accuracy"], -line["epoch"]))
    assert best["val_accuracy"] > 0.8 and best["val_weighted_f1"] > 0.8  # chance is 1/3
    record = yaml.safe_load((out / "finetune.yaml").read_text())
    assert record["selected"] == best and record["recipe"]["lr"] == 1e-3 and record["recipe"]["dropout"] == 0.1
    assert (
        record["utterances"] == {"train": 148, "val": 60}
        and record["dropout_set"]["attention_probs_dropout_prob"] == 0.1
    )
    assert record["weights_sha256"] == TextEncoder(str(task[1])).provenance()["weights_sha256"]


def test_the_kept_weights_give_the_kept_score(task, tuned):
    """An independent pass of the written folder over the validation split."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out, best = tuned
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(out).eval(),
        AutoTokenizer.from_pretrained(out),
    )
    texts, labels = read_texts(task[0]).splits["val"]
    with torch.no_grad():
        right = [
            int(model(**tokenizer(t, return_tensors="pt")).logits.argmax()) == int(y)
            for t, y in zip(texts, labels, strict=True)
        ]
    assert np.mean(right) == pytest.approx(best["val_accuracy"])
    assert model.config.id2label == {0: "joy", 1: "anger", 2: "sadness"}


def test_the_result_is_a_text_model(task, tuned):
    out, _ = tuned
    texts = ["we hate it", "so glad today"]
    after = TextEncoder(str(out), "last4-mean")
    assert after.name == "roberta-toy" and after.provenance()["fine_tuning"]["corpus"] == "toy"
    assert np.abs(after(texts)[0] - TextEncoder(str(task[1]), "last4-mean")(texts)[0]).max() > 0.05


def test_the_same_seed_gives_the_same_bytes(task, tuned, tmp_path):
    short = Recipe(epochs=1, lr=1e-3)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetune(task[0], str(task[1]), tmp_path / name, Recipe(epochs=1, lr=1e-3, seed=seed), "cpu", lambda line: None)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b and a["model.safetensors"] != c["model.safetensors"]
    assert short.for_corpus("IEMOCAP").dropout == 0.2 and Recipe().for_corpus("iemocap-mini").lr == 1e-6


def test_a_store_gives_the_same_texts(task, tmp_path):
    from erc_toolkit.toolkit.manifest import load_manifest

    manifest = load_manifest(task[0])
    with StoreWriter(tmp_path / "s.h5", corpus="toy", labels=manifest.labels, utterances=manifest.utterances):
        pass
    one, other = read_texts(task[0]), read_texts(tmp_path / "s.h5")
    assert one.labels == other.labels and one.corpus == other.corpus
    for split in ("train", "val", "test"):
        assert one.splits[split][0] == other.splits[split][0] and one.splits[split][1].equal(other.splits[split][1])


def test_mistakes_are_one_line(task, tuned, tmp_path):
    manifest, start = task

    def error_of(*arguments) -> str:
        result = CliRunner().invoke(main, ["finetune-text", *map(str, arguments), "--device", "cpu"])
        assert result.exit_code == 1 and result.output.strip().count("\n") == 0, result.output
        return result.output

    assert f"{tuned[0]}: " in error_of(manifest, "--text-model", start, "--out", tuned[0])
    assert f"--out {tmp_path}/no/such" in error_of(manifest, "--text-model", start, "--out", tmp_path / "no" / "such")
    assert "--text-model DIR" in error_of(manifest, "--text-model", tmp_path, "--out", tmp_path / "out")
    lines = [line for line in manifest.read_text().splitlines() if '"train"' not in line]
    (tmp_path / "notrain.jsonl").write_text("\n".join(lines))
    output = error_of(tmp_path / "notrain.jsonl", "--text-model", start, "--out", tmp_path / "out")
    assert "notrain.jsonl" in output and "'train'" in output
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_loss_that_is_not_finite(task, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(task[1], tmp_path / "broken")
    state = load_file(task[1] / "model.safetensors")
    state["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(state, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="epoch 1; .*--lr"):
        finetune(task[0], str(tmp_path / "broken"), tmp_path / "out", QUICK, "cpu", lambda line: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again(task, tuned, tmp_path):
    """A training that is interrupted twice ends with the same bytes as an uninterrupted one."""

    def after(epoch: int):
        start = f"  epoch {epoch}:" if epoch else "toy:"
        return lambda line: os.kill(os.getpid(), signal.SIGINT) if line.startswith(start) else None

    out = tmp_path / "roberta-toy"
    for epoch in (2, 3):
        with pytest.raises(Interrupted, match=rf"interrupted after epoch {epoch} of 6; .*same command"):
            finetune(task[0], str(task[1]), out, QUICK, "cpu", after(epoch))
        assert not out.exists()
    with pytest.raises(UserError, match=r"roberta-toy.partial.*recipe"):
        finetune(task[0], str(task[1]), out, Recipe(epochs=6, lr=1e-4), "cpu", lambda line: None)
    lines = []
    finetune(task[0], str(task[1]), out, QUICK, "cpu", lines.append)
    assert "resuming after epoch 3" in lines and not list(tmp_path.glob("*.partial"))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in tuned[0].iterdir()}
    with pytest.raises(Interrupted, match="interrupted after epoch 0"):
        finetune(task[0], str(task[1]), tmp_path / "none", QUICK, "cpu", after(0))
    assert not list(tmp_path.glob("none*"))


@pytest.mark.slow
def test_a_killed_run_resumes(task, tuned, tmp_path):
    """After a SIGKILL the next call does the remaining epochs, and the result has the same bytes."""
    manifest, start = task
    out = tmp_path / "roberta-toy"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from erc_toolkit.extract.tuning.text import Recipe, finetune\n"
        "def kill(line):\n    if 'epoch 3' in line: os.kill(os.getpid(), signal.SIGKILL)\n"
        "recipe = Recipe(epochs=6, lr=1e-3, batch=16, micro_batch=16)\n"
        "finetune(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), recipe, 'cpu', kill)"
    )
    died = subprocess.run([sys.executable, "-c", code, manifest, start, out], check=False)
    assert died.returncode == -signal.SIGKILL and not out.exists()
    finetune(manifest, str(start), out, QUICK, "cpu", lambda line: None)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in tuned[0].iterdir()}


def test_a_single_update_and_no_validation_split(task, tmp_path):
    """Dialogues are held out by the rule of `train`, which a store of the same utterances confirms."""
    from erc_toolkit.toolkit.store import FeatureStore
    from erc_toolkit.train.data.features import divide_for_training
    from erc_toolkit.train.settings import DataConfig

    words = ["happy now", "mad today", "sad here", "glad then"] * 6
    emotions = ["joy", "anger", "sadness", "joy"] * 6
    utterances = [
        Utterance(f"u{i}", f"d{i // 3}", i % 3, "Ann", text, label, "train")
        for i, (text, label) in enumerate(zip(words, emotions, strict=True))
    ]
    write_manifest(Manifest("toy", list(WORDS), tmp_path, utterances), tmp_path / "m.jsonl")
    with StoreWriter(tmp_path / "s.h5", corpus="toy", labels=list(WORDS), utterances=utterances):
        pass
    with FeatureStore.open(tmp_path / "s.h5") as store:
        division = divide_for_training(store, DataConfig(), best_on_test=False)
    texts = read_texts(tmp_path / "m.jsonl")
    assert texts.held_out and sorted(texts.held_out) == sorted(division.held_out)
    assert read_texts(tmp_path / "s.h5").held_out == texts.held_out
    assert len(texts.splits["val"][0]) == 3 * len(texts.held_out)
    arguments = ["finetune-text", str(tmp_path / "m.jsonl"), "--text-model", str(task[1]), "--device", "cpu"]
    result = CliRunner().invoke(main, [*arguments, "--epochs", "1", "--batch", "32", "--out", str(tmp_path / "tuned")])
    assert result.exit_code == 0, result.output
    assert "held out" in result.output
    record = yaml.safe_load((tmp_path / "tuned/finetune.yaml").read_text())
    assert sorted(record["held_out"]) == sorted(division.held_out) and record["selected"]["epoch"] == 1


def test_one_dialogue_cannot_be_held_out(tmp_path):
    utterances = [Utterance(f"u{i}", "d", i, "Ann", "word", list(WORDS)[i], "train") for i in range(3)]
    write_manifest(Manifest("toy", list(WORDS), tmp_path, utterances), tmp_path / "m.jsonl")
    with pytest.raises(UserError, match="validation split"):
        read_texts(tmp_path / "m.jsonl")
