"""Features belong to the content of what made them: what changed is done again, what did not is kept."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.reduce import reduce_store
from erc_toolkit.extract.run.assembly import merge, parts_root
from erc_toolkit.extract.run.carried import CHANGED
from erc_toolkit.extract.run.engine import extract
from erc_toolkit.extract.run.rows import origins
from erc_toolkit.extract.run.rows.parts import PartsFolder
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import Manifest, Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter

AUDIO, TEXT = "audio/eGeMAPSv02", "text/tiny"
LONG_AGO = 1_500_000_000
LABELS = ["joy", "sad"]
TEXTS = ["Hello.", "What do you want?", "I am so happy to see you!", "worst", "my day", "of my life"]


def write_tone(path: Path, hertz: float, seconds: float = 0.4, when: int = LONG_AGO) -> None:
    """A WAV file that is as old as every other, and as long as every other of the same seconds."""
    times = np.arange(round(16_000 * seconds)) / 16_000
    path.parent.mkdir(exist_ok=True)
    wavfile.write(path, 16_000, (8000 * np.sin(2 * np.pi * hertz * times) * (1 + np.sin(9 * times))).astype(np.int16))
    os.utime(path, (when, when))


def corpus(root: Path, count: int = 6) -> Manifest:
    """A manifest of `count` utterances in dialogues of three, each with its own WAV file."""
    for i in range(count):
        write_tone(root / f"u{i}.wav", 150 + 40 * i)
    rows = [
        Utterance(
            f"u{i}", f"d{i // 3}", i % 3, "AB"[i % 2], TEXTS[i % 6], ("joy", "sad", None)[i % 3], "train", f"u{i}.wav"
        )
        for i in range(count)
    ]
    return Manifest("toy", LABELS, root, rows)


def changed(manifest: Manifest, row: int, **fields) -> Manifest:
    rows = [replace(u, **fields) if i == row else u for i, u in enumerate(manifest.utterances)]
    return Manifest(manifest.corpus, manifest.labels, manifest.root, rows)


def audio(**more) -> Options:
    return Options(modalities=("audio",), audio_set="eGeMAPSv02", workers=1, part_size=2, **more)


def run(manifest: Manifest, out: Path, options: Options, **more) -> list[str]:
    """Extracts; returns the lines that were printed."""
    lines: list[str] = []
    extract(manifest, out, options, notify=lines.append, **more)
    return lines


def count(lines: list[str], feature: str = AUDIO) -> str:
    return next(line.removeprefix(f"{feature}: ") for line in lines if line.startswith(feature))


def content(path: Path) -> str:
    with FeatureStore.open(path) as store:
        store.verify()
        return store.content_hash


def fresh(manifest: Manifest, folder: Path, options: Options) -> str:
    """The content of a store that is made without an earlier one."""
    out = folder / f"fresh-{len(list(folder.iterdir()))}.h5"
    run(manifest, out, options)
    return content(out)


def test_another_root_with_the_same_names_sizes_and_times(tmp_path):
    first, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    run(first, out, audio())
    second = corpus(tmp_path / "b")
    write_tone(second.root / "u2.wav", 999)
    a, b = (os.stat(one.root / "u2.wav") for one in (first, second))
    assert (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)
    assert count(run(second, out, audio())) == "1 changed, 0 new, 5 unchanged, 0 gone"
    assert content(out) == fresh(second, tmp_path, audio())
    assert content(out) != fresh(first, tmp_path, audio())


def test_a_copy_of_the_corpus_is_the_same_corpus(tmp_path):
    """Copied elsewhere, touched, made again with the same bytes: nothing is decoded, and nothing is written."""
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    run(manifest, out, audio())
    before = out.stat()
    shutil.copytree(manifest.root, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "u1.wav")
    lines = run(Manifest("toy", LABELS, tmp_path / "copy", manifest.utterances), out, audio())
    assert "nothing to do" in lines[-1] and count(lines).startswith("already in") and out.stat() == before
    assert not parts_root(out).exists()


def test_repaired_added_and_removed_clips(tmp_path):
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    (manifest.root / "u4.wav").write_bytes(b"RIFF?")
    (manifest.root / "u5.wav").unlink()
    run(manifest, out, audio())
    with FeatureStore.open(out) as store:
        assert store.feature(AUDIO).present().tolist() == [True] * 4 + [False] * 2
    assert "nothing to do" in run(manifest, out, audio())[-1]  # what is broken or missing stays so
    write_tone(manifest.root / "u4.wav", 310)
    write_tone(manifest.root / "u5.wav", 350)
    assert count(run(manifest, out, audio())) == "2 changed, 0 new, 4 unchanged, 0 gone"
    assert content(out) == fresh(manifest, tmp_path, audio())
    rows = [*manifest.utterances[:2], manifest.utterances[3], replace(manifest.utterances[4], id="u4b", position=1)]
    other = Manifest("toy", LABELS, manifest.root, [*rows, replace(manifest.utterances[2], dialogue="d2", position=0)])
    assert count(run(other, out, audio())) == "0 changed, 0 new, 5 unchanged, 2 gone"
    assert content(out) == fresh(other, tmp_path, audio())


def test_spans_and_channels_count_and_labels_do_not(tmp_path):
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    run(manifest, out, audio())
    cut = changed(manifest, 1, start=0.05, end=0.3)
    assert count(run(cut, out, audio())) == "1 changed, 0 new, 5 unchanged, 0 gone"
    assert content(out) == fresh(cut, tmp_path, audio())
    one = changed(cut, 2, audio_channel=1)
    assert count(run(one, out, audio())).startswith("1 changed")
    corrected = changed(one, 3, label="joy", text="another text", speaker="C")
    assert count(run(corrected, out, audio())).startswith("already in")
    with FeatureStore.open(out) as store:
        assert store.column("text")[3] == "another text" and store.column("label")[3] == 0
    assert content(out) == fresh(corrected, tmp_path, audio())


def test_the_same_size_and_times_with_another_content(tmp_path, monkeypatch):
    """A file system that lies about its files: --check-content reads them."""
    monkeypatch.setattr(origins, "identify", lambda path: (path.name, path.stat().st_size))
    write_tone(tmp_path / "a.wav", 200)
    noted = origins.Reading(tmp_path / "a.wav").facts()
    write_tone(tmp_path / "a.wav", 300)
    for always, expected in ((False, noted.content), (True, origins.read_content(tmp_path / "a.wav"))):
        known = origins.KnownFiles(always)
        known.learn([noted])
        assert known.content(tmp_path / "a.wav") == expected
    assert Options(check_content=True).check_content


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path):
    write_tone(tmp_path / "a.wav", 200)
    reading = origins.Reading(tmp_path / "a.wav")
    write_tone(tmp_path / "a.wav", 300, when=LONG_AGO + 1)
    assert reading.facts().content == origins.UNKNOWN
    whole = origins.Reading(tmp_path / "a.wav").facts()
    assert whole.content == origins.read_content(tmp_path / "a.wav") and whole.identity
    os.utime(tmp_path / "a.wav")
    assert origins.Reading(tmp_path / "a.wav").facts().identity == ""  # written a moment ago: its time says nothing
    assert origins.Reading(tmp_path / "none.wav").facts().content == origins.MISSING


def test_a_corrected_transcript(tmp_path, text_encoder):
    """With context, the turns after it change as well; the audio is kept."""
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    both = replace(audio(), modalities=("text", "audio"), text_model=str(text_encoder), text_context=1)
    run(manifest, out, both)
    name = next(n for n in names(out) if n.startswith("text/"))
    better = changed(manifest, 1, text="What do you want from me?")
    lines = run(better, out, both)
    assert count(lines, name) == "2 changed, 0 new, 4 unchanged, 0 gone" and count(lines).startswith("already in")
    run(better, tmp_path / "fresh.h5", both)
    with FeatureStore.open(out) as a, FeatureStore.open(tmp_path / "fresh.h5") as b:
        a.verify()
        assert (a.column("text") == b.column("text")).all()
        # The batches differ, so that the last bits may.
        np.testing.assert_allclose(a.feature(name).values(), b.feature(name).values(), atol=1e-5)
        assert (a.feature(AUDIO).values() == b.feature(AUDIO).values()).all()
        assert a.feature(name).made_from()[0] == b.feature(name).made_from()[0]


def names(path: Path) -> list[str]:
    with FeatureStore.open(path) as store:
        return store.feature_names()


def test_features_that_are_not_asked_for(tmp_path, text_encoder):
    """Rows whose media changed are masked until they are extracted again, and what was derived from them goes."""
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    texts = Options(modalities=("text",), text_model=str(text_encoder))
    run(manifest, out, replace(audio(), sequences=True))
    reduce_store(out, AUDIO, 2, "pca")
    run(manifest, out, texts)
    assert {AUDIO, f"{AUDIO}-pca2"} < set(names(out))
    with FeatureStore.open(out) as store:
        before = [store.feature(AUDIO).sequence(row)[0] for row in range(6)]
    write_tone(manifest.root / "u3.wav", 888, 0.5)
    other = changed(manifest, 0, text="Good morning.")
    lines = run(other, out, texts)
    assert count(lines) == "1 changed, masked until it is extracted again; 5 unchanged"
    assert f"{AUDIO}-pca2: not kept, since {AUDIO} changed" in "\n".join(lines)
    with FeatureStore.open(out) as store:
        store.verify()
        feature = store.feature(AUDIO)
        assert feature.reasons().tolist() == ["", "", "", CHANGED, "", ""] and f"{AUDIO}-pca2" not in names(out)
        kept = [row for row in range(6) if row != 3]
        assert all((feature.sequence(row)[0] == before[row]).all() for row in kept) and not len(feature.sequence(3)[0])
    run(other, out, replace(audio(), sequences=True))
    run(other, tmp_path / "fresh.h5", replace(audio(), sequences=True))
    with FeatureStore.open(out) as store, FeatureStore.open(tmp_path / "fresh.h5") as again:
        store.verify()
        a, b = store.feature(AUDIO), again.feature(AUDIO)
        assert (a.values() == b.values()).all() and a.present().all() and a.made_from() == b.made_from()
        assert all((x == y).all() for row in range(6) for x, y in zip(a.sequence(row), b.sequence(row), strict=True))
    away = Manifest("toy", LABELS, tmp_path / "nowhere", other.utterances)
    assert count(run(away, out, texts)).startswith("6 changed, left out") and AUDIO not in names(out)


def test_unfinished_work_of_another_manifest_is_used(tmp_path):
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    run(manifest, out, audio(), shard=(1, 1))
    place = parts_root(out) / "audio--eGeMAPSv02"
    folder = PartsFolder(place, json.loads((place / "feature.json").read_text()))
    for name in folder.names():  # to be recognised by
        part = folder.read(name)
        folder.write(name, replace(part, values=part.values + 1), folder.read_origins(name)[1])
    write_tone(manifest.root / "u4.wav", 888)
    rows = [replace(u, dialogue="d", position=i) for i, u in enumerate(manifest.utterances[1:])]
    other = Manifest("toy", LABELS, manifest.root, rows)
    run(other, out, audio())
    run(other, tmp_path / "fresh.h5", audio())
    with FeatureStore.open(out) as store, FeatureStore.open(tmp_path / "fresh.h5") as again:
        more = store.feature(AUDIO).values() - again.feature(AUDIO).values()
    np.testing.assert_allclose(more, np.repeat([[1.0], [1], [1], [0], [1]], 88, axis=1), atol=1e-3)
    assert not parts_root(out).exists()


def test_shards_of_changed_media_join(tmp_path):
    """A shard that is done again after a clip was repaired replaces what it had before."""
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    for i in (1, 2):
        run(manifest, out, audio(), shard=(i, 2))
    write_tone(manifest.root / "u0.wav", 888)
    run(manifest, out, audio(), shard=(1, 2))
    merge(out, [parts_root(out)])
    assert content(out) == fresh(manifest, tmp_path, audio())
    with FeatureStore.open(out) as store:
        assert "" not in store.feature(AUDIO).made_from()[0]
    assert "nothing to do" in run(manifest, out, audio())[-1]


def test_shards_of_what_a_store_has_already(tmp_path):
    """The merged store still knows the files, so that the next run does not decode them."""
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    run(manifest, out, audio())
    for i in (1, 2):
        assert count(run(manifest, out, audio(), shard=(i, 2))).startswith("already in")
    merge(out, [parts_root(out)])
    assert content(out) == fresh(manifest, tmp_path, audio())
    assert "nothing to do" in run(manifest, out, audio())[-1]


def test_rows_without_their_sequences_are_not_kept_for_those_with(tmp_path):
    manifest, out = corpus(tmp_path / "a", 3), tmp_path / "s.h5"
    run(manifest, out, audio())
    with pytest.raises(UserError, match=r"s\.h5: audio/eGeMAPSv02 was extracted with .*--overwrite"):
        run(manifest, out, replace(audio(), sequences=True))
    run(manifest, out, replace(audio(), sequences=True), overwrite=True)
    with FeatureStore.open(out) as store:
        assert store.feature(AUDIO).has_sequences


def test_another_corpus_is_not_replaced_without_a_word(tmp_path):
    manifest, out = corpus(tmp_path / "a"), tmp_path / "s.h5"
    run(manifest, out, audio())
    before = out.read_bytes()
    foreign = Manifest("toys", LABELS, manifest.root, manifest.utterances)
    strangers = Manifest("toy", LABELS, manifest.root, [replace(u, id=f"x{u.id}") for u in manifest.utterances])
    for other, why in ((foreign, "is of the corpus 'toy', not 'toys'"), (strangers, "none of the manifest's utt")):
        with pytest.raises(UserError, match=f"{why}.*--overwrite"):
            run(other, out, audio())
        assert out.read_bytes() == before
    run(foreign, out, audio(), overwrite=True)
    assert content(out) == fresh(foreign, tmp_path, audio())
    with StoreWriter(
        tmp_path / "c.h5", corpus="toy", labels=LABELS, utterances=manifest.utterances, attrs={"converted_from": "[]"}
    ):
        pass
    with pytest.raises(UserError, match=r"c\.h5: was made by erc-toolkit convert"):
        run(manifest, tmp_path / "c.h5", audio())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_in_the_same_store(tmp_path, seed):
    """After any sequence of edits, interruptions and runs the store equals one that is made afresh."""
    rng = random.Random(seed)
    manifest, out = corpus(tmp_path / "a", 12), tmp_path / "s.h5"
    for _ in range(6):
        rows = list(manifest.utterances)
        for _ in range(rng.randrange(1, 4)):
            edit, row = rng.randrange(6), rng.randrange(len(rows))
            if edit == 0:
                write_tone(manifest.root / str(rows[row].media), rng.randrange(100, 900), when=LONG_AGO)
            elif edit == 1:
                (manifest.root / str(rows[row].media)).write_bytes(b"broken")
            elif edit == 2 and len(rows) > 3:
                del rows[row]
            elif edit == 3:
                rows[row] = replace(rows[row], start=0.0, end=rng.choice([0.2, 0.3]))
            elif edit == 4:
                rng.shuffle(rows)
            else:
                rows.insert(row, replace(rows[row], id=f"n{rng.random()}"))
        rows = [replace(u, dialogue="d", position=i) for i, u in enumerate(rows)]
        manifest = Manifest("toy", LABELS, manifest.root, rows)
        if rng.random() < 0.4:  # as an interrupted run leaves them
            run(manifest, out, audio(), **({} if out.exists() else {"shard": (1, 2)}))
            continue
        run(manifest, out, audio())
        assert content(out) == fresh(manifest, tmp_path, audio())
