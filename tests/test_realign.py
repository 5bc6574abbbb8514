"""`realign`: forced alignment, spans found again in audio of tones, and the overlay on its way through the commands."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from kill_support import run_until
from stand_in import DEVICE, StandIn
from transcribe_support import make_ctc, write_wav

from erc_toolkit.extract.alignment import ctc
from erc_toolkit.extract.alignment.ctc import align
from erc_toolkit.extract.alignment.spelling import STAR, spell
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, write_manifest

LETTERS = "abcdefghij"
HOP, RATE = 0.02, 16_000


class Tones:
    """A CTC model of tones: letter i is a tone of 400 + 200 i Hz, and what is quiet is the blank."""

    rate, hop_s, blank, delimiter = RATE, HOP, 0, None
    vocabulary = {letter: i + 1 for i, letter in enumerate(LETTERS)}

    def __init__(self, *_: object) -> None:
        pass

    def emissions(self, samples, /):
        n = round(HOP * RATE)
        frames = samples[: len(samples) // n * n].reshape(-1, n) * np.hanning(n)
        heard = np.abs(np.fft.rfft(frames))
        columns = [heard[:, round((400 + 200 * i) * HOP)] for i in range(len(LETTERS))]
        power = np.stack([np.full(len(frames), 5.0), *columns], 1)
        return np.log(power / power.sum(1, keepdims=True) + 1e-9).astype(np.float32)

    def provenance(self):
        return {"model": "tones"}


def sounding(parts, seconds):
    """Audio with words at times: each letter is a tone of 80 ms, with 20 ms of silence after it."""
    samples = np.zeros(round(seconds * RATE), np.float32)
    for start, word in parts:
        for k, letter in enumerate(word):
            at = round((start + 0.1 * k) * RATE)
            time = np.arange(round(0.08 * RATE)) / RATE
            samples[at : at + len(time)] = 0.5 * np.sin(2 * np.pi * (400 + 200 * LETTERS.index(letter)) * time)
    return samples


def best_path(emissions, numbers, blank):
    """The greatest log probability of any path, by trying every sequence of columns."""
    wide = np.concatenate([emissions, np.zeros((len(emissions), 1))], 1)
    best = -math.inf
    for path in itertools.product(range(wide.shape[1]), repeat=len(wide)):
        if [c for c, _ in itertools.groupby(path) if c != blank] == numbers:
            best = max(best, float(sum(wide[t, c] for t, c in enumerate(path))))
    return best


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.lists(st.integers(1, 2), min_size=1, max_size=2), st.integers(0, 2**32 - 1))
def test_alignment_is_the_best_of_all_paths(frames, tokens, seed):
    import torch
    import torchaudio

    logits = np.random.default_rng(seed).normal(size=(frames, 3)).astype(np.float32) * 3
    emissions = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
    found = align(emissions, [STAR, *tokens, STAR], 0, HOP)
    best = best_path(emissions, [3, *tokens, 3], 0)
    assert (found is None) == (best == -math.inf)
    if found is not None:
        wide = torch.from_numpy(np.concatenate([emissions, np.zeros((frames, 1), np.float32)], 1))
        _, scores = torchaudio.functional.forced_align(wide[None], torch.tensor([[3, *tokens, 3]]), blank=0)
        assert float(scores.sum()) == pytest.approx(best, abs=1e-4)
        assert 0 <= found.start < found.end <= frames * HOP + 1e-9 and 0 <= found.score <= 1


@pytest.mark.parametrize("shift", [0, 7, 63])
def test_a_known_shift_is_found_in_emissions(shift):
    emissions = np.full((200, 4), math.log(0.02), np.float32)
    emissions[:, 0] = math.log(0.94)
    for k, token in enumerate([1, 2, 2, 3]):
        emissions[20 + shift + 5 * k] = np.log([0.02, *(0.94 if c == token else 0.02 for c in (1, 2, 3))])
    found = align(emissions, [STAR, 1, 2, 2, 3, STAR], 0, HOP)
    assert found.start == pytest.approx((20 + shift) * HOP, abs=0.1)
    assert found.end == pytest.approx((36 + shift) * HOP, abs=0.1) and found.score > 0.8


def test_spelling():
    known = {**Tones.vocabulary, "'": 11}
    assert spell("Bad-cab! (laughs) 50 é fig", known, 12) == [STAR, 2, 1, 4, 12, 3, 1, 2, STAR, 5, 12, 6, 9, 7, STAR]
    assert spell("", known) == spell("123 ...", known) == []


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """One long file with wrong spans, as a manifest."""
    monkeypatch.setattr(ctc, "CtcModel", Tones)
    parts = [(2.0, "bad"), (5.0, "cabbage"), (9.0, "fig")]
    write_wav(tmp_path / "talk.wav", sounding(parts, 12))
    texts = [("bad", 2.7, 3.2), ("cabbage", 4.0, 4.6), ("fig", 9.6, 10.0), ("...", 10.5, 11.0), ("jihj", 6.0, 6.6)]
    utterances = [
        Utterance(f"u{i}", "d", i, "Ann", text, None, "train", media="talk.wav", start=a, end=b)
        for i, (text, a, b) in enumerate(texts)
    ]
    path = tmp_path / "m.jsonl"
    write_manifest(Manifest("toy", [], tmp_path, utterances), path)
    return path


def run(*words, status=0):
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def realigned(corpus, *more):
    out = corpus.with_name("overlay.jsonl")
    run("realign", "manifest", corpus, "--out", out, "--padding", 0, "--device", "cpu", *more)
    return out, [json.loads(line) for line in out.read_text().splitlines()]


def test_shifted_spans_are_found_within_100_ms(corpus):
    _, (header, *lines) = realigned(corpus)
    assert header["erc_overlay"] == 1 and header["corpus"] == "toy" and header["ctc"] == {"model": "tones"}
    assert [line["start"] for line in lines[:3]] == pytest.approx([2.0, 5.0, 9.0], abs=0.1)
    assert [line["end"] for line in lines[:3]] == pytest.approx([2.28, 5.68, 9.28], abs=0.1)
    assert all(line["score"] > 0.3 and not line["flags"] for line in lines[:3])
    assert lines[3]["start"] is None and "no words in text" in lines[3]["flags"]
    assert "low score" in lines[4]["flags"] and "text and audio do not match" in lines[4]["flags"]


def test_whole_clips_get_the_span_of_their_words(corpus):
    manifest = load_manifest(corpus)
    clip = dataclasses.replace(manifest.utterances[0], start=None, end=None)
    write_manifest(dataclasses.replace(manifest, utterances=[clip]), corpus)
    _, (_, line) = realigned(corpus)
    assert line["start"] == pytest.approx(2.0, abs=0.1) and line["end"] == pytest.approx(2.28, abs=0.1)


def test_the_overlay_is_applied_where_nothing_changed(corpus):
    overlay, _ = realigned(corpus)
    manifest = load_manifest(corpus)
    utterances = [dataclasses.replace(manifest.utterances[0], text="bad cab"), *manifest.utterances[1:4]]
    write_manifest(dataclasses.replace(manifest, utterances=utterances), corpus)
    out = corpus.with_name("s.h5")
    said = run("extract", "manifest", corpus, "--modalities", "audio", "--overlay", overlay, "--out", out)
    for part in (
        "1 utterance whose text",
        "2 utterances with new spans",
        "1 utterance with flagged spans",
        "1 utterance of the",
    ):
        assert part in said
    from erc_toolkit.extract.alignment.overlay import apply_overlay

    new = apply_overlay(load_manifest(corpus), overlay).utterances
    assert [u.start for u in new] == pytest.approx([2.7, 5.0, 9.0, 10.5], abs=0.1)


def test_a_changed_overlay_is_not_replaced_and_an_unchanged_one_is_used_again(corpus):
    overlay, lines = realigned(corpus)
    words = ["realign", "manifest", corpus, "--out", overlay, "--padding", 0, "--device", "cpu"]
    assert "5 of 5 utterances are known" in run(*words)
    overlay.write_text(overlay.read_text() + "\n")
    assert "--overwrite" in run("realign", "manifest", corpus, "--out", overlay, "--device", "cpu", status=1)
    assert "input" in run("realign", "manifest", corpus, "--out", corpus, "--device", "cpu", status=1)


def test_an_interrupted_run_continues(corpus, monkeypatch):
    manifest = load_manifest(corpus)
    (corpus.parent / "two.wav").write_bytes((corpus.parent / "talk.wav").read_bytes())
    second = dataclasses.replace(manifest.utterances[1], id="v", position=5, media="two.wav")
    write_manifest(dataclasses.replace(manifest, utterances=[*manifest.utterances, second]), corpus)
    plain = Tones.emissions
    calls = []

    def failing(self, samples, /):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(self, samples)

    monkeypatch.setattr(Tones, "emissions", failing)
    out = corpus.with_name("overlay.jsonl")
    words = ["realign", "manifest", corpus, "--out", out, "--device", "cpu"]
    run(*words, status=130)
    assert not out.exists() and out.with_name("overlay.jsonl.part").exists()
    assert "5 of 6 utterances are known" in run(*words) and len(calls) == 6
    assert not out.with_name("overlay.jsonl.part").exists()


@pytest.mark.parametrize(
    ("number", "change", "field"),
    [
        (1, {"erc_overlay": 2}, "erc_overlay"),
        (1, {"corpus": ""}, "corpus"),
        (2, {"start": "x"}, "start"),
        (2, {"end": 0.5}, "end"),
        (2, {"end": 1e9}, "end"),
        (2, {"face": []}, "face"),
        (2, {"face": {"media_xxh3": "", "span": [None, None], "boxes": [[0, 0, 0, 1]]}}, "face"),
        (2, {"face": {"media_xxh3": "", "span": [None, None], "boxes": [[1, 0, 0, 1, 1], [0, 0, 0, 1, 1]]}}, "face"),
        (2, {"face": {"media_xxh3": "", "span": [None]}}, "face"),
        (2, {"face": {"media_xxh3": "", "span": [None, None], "confidence": 2}}, "face"),
        (3, {"score": 2}, "score"),
        (3, {"flags": {"other": "x"}}, "flags"),
        (3, {"id": "u0"}, "id"),
        (2, {"boxes": []}, "boxes"),
        (2, {"given": [1]}, "given"),
    ],
)
def test_a_bad_overlay_is_one_line(corpus, number, change, field):
    overlay, rows = realigned(corpus)
    rows[number - 1] |= change
    overlay.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from erc_toolkit.extract.alignment.overlay import read_overlay
    from erc_toolkit.toolkit.base.errors import UserError

    with pytest.raises(UserError) as caught:
        read_overlay(overlay)
    assert f"{overlay}, line {number}, field {field}" in caught.value.message


def test_a_real_ctc_model_is_loaded(tmp_path):
    model = ctc.CtcModel(str(make_ctc(tmp_path / "model", "ABCDE")))
    assert set(model.vocabulary) == set("ABCDE") and model.delimiter == 4 and model.blank == 0
    emissions = model.emissions(np.random.default_rng(0).normal(size=RATE).astype(np.float32))
    assert emissions.shape == (49, 10) and np.exp(emissions).sum(1) == pytest.approx(1, abs=1e-4)
    assert align(emissions, spell("bad cab", model.vocabulary, 4), 0, model.hop_s) is not None
    assert [len(model.emissions(np.ones(n, np.float32))) for n in (0, 399, 400, 719, 720)] == [0, 0, 1, 1, 2]


def test_a_ctc_model_on_a_device(tmp_path, monkeypatch):
    """The same as on the CPU, with one copy back for each window."""
    folder = str(make_ctc(tmp_path / "model"))
    monkeypatch.setattr(ctc, "WINDOW_S", 1.0)
    monkeypatch.setattr(ctc, "CONTEXT_S", 0.5)
    samples = np.random.default_rng(0).normal(size=5 * RATE).astype(np.float32)
    there = ctc.CtcModel(folder).emissions(samples)
    with StandIn():
        found = ctc.CtcModel(folder, DEVICE).emissions(samples)
    assert np.abs(found - there).max() < 1e-5


def test_long_audio_is_read_in_windows(tmp_path, monkeypatch):
    """With almost the same result as at once."""
    model = ctc.CtcModel(str(make_ctc(tmp_path / "model")))
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=40 * RATE) * (1 + np.sin(np.arange(40 * RATE) / RATE))).astype(np.float32)
    whole = model.emissions(samples)
    lengths = []
    plain = model._of_window
    monkeypatch.setattr(model, "_of_window", lambda part: lengths.append(part.shape[1] / RATE) or plain(part))
    monkeypatch.setattr(ctc, "WINDOW_S", 7.0)
    parts = model.emissions(samples)
    assert parts.shape == whole.shape == (1999, 32) and len(lengths) == 6 and max(lengths) < 7 + 2 * ctc.CONTEXT_S + 0.1
    spread = whole.std(0).mean()
    assert np.abs(parts - whole).mean() < 0.2 * spread and not np.array_equal(parts, whole)
    tokens = spell("a few words that are nowhere", model.vocabulary, model.delimiter)
    assert align(parts, tokens, 0, model.hop_s).score == pytest.approx(
        align(whole, tokens, 0, model.hop_s).score, rel=0.05
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.floats(0, 100), st.sampled_from([0.04, 0.2, 0.5]), st.integers(0, 2**32 - 1))
def test_a_tracks_path_leads_back_to_it(count, start, step, seed):
    """Boxes of a face that moves are few, are valid in a manifest, and are shared by this track and not by another."""
    from erc_toolkit.extract.faces.given import GivenFace
    from erc_toolkit.extract.faces.tracks import Track
    from erc_toolkit.toolkit.manifest.faces import face_problem

    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 0.2, 2), rng.uniform(-0.04, 0.04, 2)
    track, other = Track(), Track()
    for k in range(count):
        x, y = place + k * step * speed
        track.boxes.append((start + k * step, (x, y, 0.2, 0.3, 1.5)))
        other.boxes.append((start + k * step, (x + 0.4, y, 0.2, 0.3, 1.5)))
    path = track.path()
    assert path[0][0] == round(track.boxes[0][0], 3) and path[-1][0] == round(track.boxes[-1][0], 3)
    assert len(path) <= 2 + (count - 1) * step / 0.39 and not face_problem({"boxes": path, "confidence": 1})
    face = GivenFace.of({"boxes": path})
    assert face.shared(track) == count and face.shared(other) == 0


def test_what_would_fill_the_memory_is_flagged(corpus, monkeypatch):
    from erc_toolkit.extract.alignment import realign

    monkeypatch.setattr(realign, "MOST_CELLS", 3000)
    _, (_, *lines) = realigned(corpus)
    assert ["too long to align" in line["flags"] for line in lines[:3]] == [False, True, False]
    assert lines[1]["start"] is None


def test_a_killed_run_continues(tmp_path):
    """The same overlay, byte for byte, as without the end in between; nothing is looked at twice."""
    model = make_ctc(tmp_path / "ctc")
    utterances = []
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", sounding([(0.5, "bad"), (1.0, "cab")], 2))
        utterances.append(Utterance(f"u{i}", "d", i, "Ann", "bad cab", None, "train", media=f"{i}.wav"))
    write_manifest(Manifest("toy", [], tmp_path, utterances), tmp_path / "m.jsonl")
    words = ["realign", "manifest", tmp_path / "m.jsonl", "--ctc-model", model, "--device", "cpu", "--faces", "no"]
    run(*words, "--out", tmp_path / "whole.jsonl")
    out = tmp_path / "overlay.jsonl"
    run_until([*words, "--out", out], "append", r"overlay\.jsonl\.part", count=3)
    assert not out.exists() and (tmp_path / "overlay.jsonl.part").exists()
    assert "2 of 4 utterances are known" in run(*words, "--out", out)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "overlay.jsonl.part").exists()
