"""Fine-tuning decoders, and adapters: a tiny Llama end to end, beside transformers' and peft's own results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from click.testing import CliRunner
from tuning_support import WORDS, tiny_llama, toy_manifest

from erc_toolkit.extract.encoders.base import Turn
from erc_toolkit.extract.encoders.text.classifier import TextClassifier
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.text.input_rule import InputRule
from erc_toolkit.extract.encoders.text.label_words import LabelWords
from erc_toolkit.extract.encoders.text.prompts import Prompt
from erc_toolkit.extract.tuning import adapters
from erc_toolkit.extract.tuning.decoders import is_decoder
from erc_toolkit.extract.tuning.text import Recipe, finetune, read_texts
from erc_toolkit.toolkit.base import extras
from erc_toolkit.toolkit.base.errors import Interrupted, UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.store import FeatureStore

TEMPLATE = "{context}\n{speaker}: {text}\n{speaker} shows"


def lora(folder: Path) -> Recipe:
    """The adapters' recipe; the prompt is a file next to the manifest."""
    prompt = str(folder / "short.txt")
    more = {"lora": 8, "context": 1, "text_prompt": prompt, "dropout": 0.0, "attention_dropout": 0.0}
    return Recipe(epochs=6, lr=1e-2, batch=8, micro_batch=8, **more)


TEXTS = [Turn("we glad today", "Ann", ("Bob: so mad",)), Turn("a very furious it", "Bob"), Turn("cry", "Ann")]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    (folder / "short.txt").write_text(TEMPLATE)
    return toy_manifest(folder, 240), tiny_llama(folder / "llama")


@pytest.fixture(scope="module")
def tuned(task, tmp_path_factory):
    """(folder, line of the best epoch) of adapters trained by the objective label."""
    out = tmp_path_factory.mktemp("tuned") / "llama-toy"
    return out, finetune(task[0], str(task[1]), out, lora(task[0].parent), "cpu", lambda line: None)


def by_hand(folder, turn: Turn) -> np.ndarray:
    """The softmax over classes of the log-likelihood of each label's tokens, one forward pass for each."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = Prompt("short", TEMPLATE).fill(turn, turn.before)
    scores = []
    for label in WORDS:
        prompt, whole = tokenizer(text)["input_ids"], tokenizer(f"{text} {label}")["input_ids"]
        assert whole[: len(prompt)] == prompt
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([whole])).logits[0], -1)
        scores.append(sum(logs[place - 1, whole[place]] for place in range(len(prompt), len(whole))))
    return torch.softmax(torch.stack(scores), 0).numpy()


def test_it_learns_to_say_the_label(tuned):
    out, best = tuned
    assert best["val_accuracy"] > 0.8  # chance is a third
    record = yaml.safe_load((out / "finetune.yaml").read_text())
    assert record["objective"] == "label" and record["recipe"]["lora"] == 8 and "merged" in record["adapters"]
    assert record["input"]["context"] == 1 and "{context}" in record["input"]["template"]
    assert len(record["label_tokens"]["deep sadness"]) > len(record["label_tokens"]["joy"]) == 1
    files = {path.name for path in out.iterdir()}
    assert "model.safetensors" in files and not {name for name in files if "adapter" in name or "checkpoint" in name}


def test_its_probabilities_are_the_models_own(tuned):
    out, best = tuned
    model = TextClassifier(str(out))
    # In 16 bits it has transformers' own types: frequencies of rotary positions stay float32.
    half = TextClassifier(str(out), precision="bfloat16")._model
    own = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    assert {name: x.dtype for name, x in half.named_buffers()} == {name: x.dtype for name, x in own.named_buffers()}
    assert {x.dtype for x in half.parameters()} == {torch.bfloat16}
    together = [one.values for one in model.extract(TEXTS, lambda count: None)]
    alone = [next(iter(model.extract([turn], lambda count: None))).values for turn in TEXTS]
    for turn, batch, single in zip(TEXTS, together, alone, strict=True):
        np.testing.assert_allclose(batch, by_hand(out, turn), atol=1e-5)
        np.testing.assert_allclose(batch, single, atol=1e-5)
        assert batch.sum() == pytest.approx(1, abs=1e-6)
    assert model.name == "llama-toy-probs" and model.dimension_names == tuple(WORDS) and model.dim == 3
    empty = next(iter(model.extract([Turn(" ")], lambda count: None)))
    assert empty.values is None and empty.reason == "empty transcript"


def test_the_loss_is_that_of_the_labels_tokens(task):
    """Against transformers' own loss, of which the prompt's tokens are left out by -100."""
    _, llama = task
    model = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    tokenizer.pad_token = tokenizer.eos_token
    words = LabelWords(tokenizer, list(WORDS))
    prompts = [tokenizer(text)["input_ids"] for text in ("so it is:", "happy today is:", "is:")]
    expected = 0.0
    for prompt, label in zip(prompts, (2, 0, 2), strict=True):
        tokens = words.tokens[label]
        target = torch.tensor([[-100] * len(prompt) + tokens])
        loss = model(torch.tensor([[*prompt, *tokens]]), labels=target).loss
        expected += loss.item() * len(tokens)
    assert words.loss(model, words.padded(prompts), [2, 0, 2]).item() == pytest.approx(expected, rel=1e-5)
    padded = words.padded(prompts)
    scores = words.log_likelihoods(model, padded)
    own = torch.stack([scores[i, label] for i, label in enumerate((2, 0, 2))]).sum()
    assert -own.item() == pytest.approx(expected, rel=1e-5)


def test_labels_that_begin_alike_end_with_the_end(task):
    tokenizer = transformers.AutoTokenizer.from_pretrained(task[1])
    tokenizer.pad_token = tokenizer.eos_token
    words = LabelWords(tokenizer, ["deep", "deep sadness", "joy"])
    assert all(tokens[-1] == tokenizer.eos_token_id for tokens in words.tokens)
    with pytest.raises(UserError, match="alike"):
        LabelWords(tokenizer, ["joy", "joy"])


@pytest.mark.parametrize("objective", ["label", "classes"])
def test_merging_does_not_change_the_logits(task, objective):
    """peft's model before the merge, and the plain model after it."""
    label = objective == "label"
    auto = transformers.AutoModelForCausalLM if label else transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(task[1], num_labels=3)
    adapted = adapters.with_adapters(model, 4, "CAUSAL_LM" if label else "SEQ_CLS", ("score",))
    names = [name for name, _ in adapters.trained(adapted)]
    assert all("lora_" in name or "score" in name for name in names)
    assert any("score" in name for name in names) != label
    for name, parameter in adapters.trained(adapted):
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(2, 14)[None]
    adapted.eval()
    with torch.no_grad():
        before = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            plain = adapted(input_ids=ids).logits
        after = adapters.merged(adapted).eval()(input_ids=ids).logits
    assert (before - plain).abs().max() > 1e-2
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_the_folder_loads_as_a_plain_model(tuned, task):
    out, _ = tuned
    own, start = TextEncoder(str(out)), TextEncoder(str(task[1]))
    ids = transformers.AutoTokenizer.from_pretrained(out)("so glad", return_tensors="pt")
    with torch.no_grad():
        a, b = (transformers.AutoModel.from_pretrained(one)(**ids).last_hidden_state for one in (out, task[1]))
    assert (a - b).abs().max() > 1e-2 and own.provenance()["fine_tuning"]["corpus"] == "toy" and start.dim == own.dim


@pytest.mark.slow
def test_an_interrupted_and_a_killed_run_end_with_the_same_bytes(task, tuned, tmp_path):
    manifest, llama = task
    out = tmp_path / "llama-toy"

    def after(line: str) -> None:
        if line.startswith("  epoch 1:"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after epoch 1 of 6"):
        finetune(manifest, str(llama), out, lora(manifest.parent), "cpu", after)
    checkpoint = tmp_path / "llama-toy.partial" / "checkpoint.safetensors"
    assert checkpoint.stat().st_size < 3 * (llama / "model.safetensors").stat().st_size
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as file:
        assert not [name for name in file.keys() if "embed_tokens" in name or "base_layer" in name]
    code = (
        "import json, os, signal, sys\nfrom pathlib import Path\n"
        "from erc_toolkit.extract.tuning.text import Recipe, finetune\n"
        "def kill(line):\n    if 'epoch 3' in line: os.kill(os.getpid(), signal.SIGKILL)\n"
        "recipe = Recipe(**{**json.loads(sys.argv[4]), 'betas': (0.9, 0.98)})\n"
        "finetune(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), recipe, 'cpu', kill)"
    )
    recipe = json.dumps(asdict(lora(manifest.parent)))
    died = subprocess.run([sys.executable, "-c", code, manifest, llama, out, recipe], check=False)
    assert died.returncode == -signal.SIGKILL and not out.exists()
    lines: list[str] = []
    finetune(manifest, str(llama), out, lora(manifest.parent), "cpu", lines.append)
    assert "resuming after epoch 2" in lines
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in tuned[0].iterdir()}


def test_probabilities_through_extract(task, tuned, tmp_path):
    manifest, out = task[0], tuned[0]
    arguments = ["extract", "manifest", str(manifest), "--modalities", "text", "--device", "cpu"]
    arguments += ["--text-model", str(out), "--output", "probs", "--out", str(tmp_path / "s.h5")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with FeatureStore.open(tmp_path / "s.h5") as store:
        store.verify()
        feature = store.feature("text/llama-toy-probs")
        made = feature.attrs
        assert feature.dim == 3 and feature.dimension_names() == list(WORDS)
        parameters = made["parameters"] if isinstance(made["parameters"], dict) else json.loads(made["parameters"])
        assert parameters["trained_on"] == ["train"] and "labels of the training split" in parameters["notes"][0]
        assert parameters["objective"] == "label" and made["weights_sha256"]
        row = 3
        turn = Turn(store.column("text")[row], "Bob", (f"Ann: {store.column('text')[row - 1]}",))
        np.testing.assert_allclose(feature.values()[row], by_hand(out, turn), atol=1e-5)
        accuracy = (feature.values().argmax(1) == store.column("label"))[store.column("split") == "val"].mean()
    assert accuracy == pytest.approx(tuned[1]["val_accuracy"])


def test_an_encoder_with_context_learns_by_its_pair(task, tmp_path):
    """The classes of an encoder; the input is the pair that TextEncoder makes with --text-context."""
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    texts = read_texts(task[0], context=2)
    start = make_text_encoder(tmp_path / "start", texts.splits["train"][0], layers=2)
    recipe = Recipe(epochs=3, lr=2e-3, batch=16, micro_batch=16, context=2, lora=4)
    best = finetune(task[0], str(start), tmp_path / "bert", recipe, "cpu", lambda line: None)
    encoder, tokenizer = TextEncoder(str(start), context=2), transformers.AutoTokenizer.from_pretrained(start)
    for turn in (*texts.turns["val"][:8], Turn("so " * 200, "Ann", ("Bob: x",))):
        own, theirs = InputRule(2).encode(tokenizer, turn, encoder.max_tokens), encoder._inputs.encode(turn)
        assert own.inputs == theirs.inputs and (own.cut, own.context) == (theirs.tokens_cut, theirs.context)
    model = TextClassifier(str(tmp_path / "bert"))
    assert best["val_loss"] < 1.2 and model.wants.context == 2
    turns = texts.turns["val"]
    found = np.stack([one.values for one in model.extract(turns, lambda count: None)])
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    for turn, row in zip(turns[:5], found[:5], strict=True):
        pair = tokenizer(" ".join(turn.before), f"{turn.speaker}: {turn.text}", return_tensors="pt")
        if not turn.before:
            pair = tokenizer(f"{turn.speaker}: {turn.text}", return_tensors="pt")
        with torch.no_grad():
            own = torch.softmax(plain(input_ids=pair["input_ids"]).logits[0], -1).numpy()
        np.testing.assert_allclose(row, own, atol=1e-5)
    accuracy = (found.argmax(1) == texts.splits["val"][1].numpy()).mean()
    assert accuracy == pytest.approx(best["val_accuracy"])


def test_a_decoder_with_a_head_and_bfloat16(task, tmp_path):
    recipe = Recipe(
        epochs=1, lr=1e-3, objective="classes", lora=2, precision="bfloat16", gradient_checkpointing=True, batch=16
    )
    finetune(task[0], str(task[1]), tmp_path / "out", recipe, "cpu", lambda line: None)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32 and model.config.pad_token_id is not None
    assert model.config.id2label[2] == "deep sadness"
    classifier = TextClassifier(str(tmp_path / "out"))
    turns = [Turn("so glad"), Turn("we furious very today it was")]
    found = np.stack([one.values for one in classifier.extract(turns, lambda count: None)])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for turn, row in zip(turns, found, strict=True):
        with torch.no_grad():
            logits = model.eval()(**tokenizer(turn.text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(row, torch.softmax(logits, -1).numpy(), atol=1e-5)


def test_gradient_checkpointing_and_a_device_map_change_no_number(task, tmp_path):
    base = {"epochs": 1, "lr": 1e-3, "batch": 16, "micro_batch": 8}
    plain = finetune(task[0], str(task[1]), tmp_path / "a", Recipe(**base), "cpu", lambda line: None)
    for name, more in (("b", {"gradient_checkpointing": True}), ("c", {"device_map": True})):
        other = finetune(task[0], str(task[1]), tmp_path / name, Recipe(**base, **more), "cpu", lambda line: None)
        assert other == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(task, tmp_path):
    """Without dropout, which each process draws for itself, the numbers are the same up to rounding."""
    pytest.importorskip("accelerate")
    arguments = ["finetune-text", task[0], "--text-model", task[1], "--epochs", "2", "--lr", "1e-2", "--lora", "4"]
    arguments += ["--dropout", "0", "--attention-dropout", "0"]
    arguments += ["--batch", "16", "--micro-batch", "4", "--device", "cpu", "--out"]
    result = CliRunner().invoke(main, [*map(str, arguments), str(tmp_path / "one")])
    assert result.exit_code == 0, result.output
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "erc_toolkit", *map(str, arguments), str(tmp_path / "two")]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("wrote ") == 1 and done.stdout.count("  epoch 2:") == 1
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    record = yaml.safe_load((tmp_path / "two" / "finetune.yaml").read_text())
    assert record["processes"] == 2 and not list(tmp_path.glob("*.partial"))


def test_decoders_are_told_from_encoders():
    for name, decoder in (("Llama", True), ("GPT2", True), ("Qwen2", True), ("Roberta", False), ("Bert", False)):
        assert is_decoder(getattr(transformers, f"{name}Config")()) == decoder, name


def test_mistakes_are_one_line(task, tuned, tmp_path, text_encoder, monkeypatch):
    manifest, llama = task

    def error_of(*arguments) -> str:
        words = ["finetune-text", str(manifest), "--out", str(tmp_path / "out"), "--device", "cpu"]
        result = CliRunner().invoke(main, [*words, *map(str, arguments)])
        assert result.exit_code == 1 and result.output.strip().count("\n") == 0, result.output
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
        return result.output

    assert "--objective classes" in error_of("--text-model", text_encoder, "--objective", "label")
    assert "--text-prompt" in error_of("--text-model", llama, "--objective", "classes", "--context", "2")
    (tmp_path / "plain.txt").write_text("{text} is")
    assert "{context}" in error_of("--text-model", llama, "--text-prompt", tmp_path / "plain.txt", "--context", "2")
    (tmp_path / "long.txt").write_text("so very today " * 100 + "{text}")
    assert "long.txt is longer" in error_of("--text-model", llama, "--text-prompt", tmp_path / "long.txt")
    headless = tiny_llama(tmp_path / "headless", head=False)
    assert "lm_head" in error_of("--text-model", headless)
    find = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "peft" else find(name))
    assert "pip install 'erc-toolkit[llm]'" in error_of("--text-model", llama, "--lora", "4")


def test_folders_without_probabilities_are_refused(task, tuned, tmp_path):
    def error_of(*arguments) -> str:
        words = ["extract", "manifest", str(task[0]), "--modalities", "text", "--device", "cpu", "--output", "probs"]
        result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "s.h5"), *map(str, arguments)])
        assert result.exit_code == 1 and result.stderr.strip().count("\n") == 0, result.output
        return result.stderr

    assert "finetune-text" in error_of("--text-model", task[1])
    assert "trained with 1" in error_of("--text-model", tuned[0], "--text-context", "3")
