"""Memory does not grow with the number of utterances, nor with how often a store is read."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from erc_toolkit.toolkit.demo.clips import write_clip
from erc_toolkit.toolkit.store import StoreWriter

_EXTRACT = """
import sys, tracemalloc
from erc_toolkit.toolkit.commands.main import main
tracemalloc.start()
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code
print("peak", tracemalloc.get_traced_memory()[1])
"""
_READ = """
import gc, sys, tracemalloc
import h5py
from erc_toolkit.toolkit.store import FeatureStore
tracemalloc.start()
for epoch in range(10):
    with FeatureStore.open(sys.argv[1]) as store:
        for name in store.feature_names():
            feature = store.feature(name)
            for _, rows in store.dialogues():
                assert len(feature.values(rows)) == len(feature.present(rows)) == len(feature.reasons(rows))
    gc.collect()
    print(tracemalloc.get_traced_memory()[0], h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_ALL))
"""
COLUMNS = 6_373  # of ComParE 2016


def peak_bytes(tmp_path, text_encoder, count: int) -> int:
    """Peak memory of Python and NumPy in the main process of an extraction of `count` utterances, which share four
    clips of half a second."""
    rng = np.random.default_rng(0)
    for i in range(4):
        if not (tmp_path / f"{i}.wav").exists():
            write_clip(
                tmp_path / f"{i}.wav",
                None,
                rng.normal(0, 0.1, 8_000).astype(np.float32),
                sample_rate=16_000,
                audio_codec="pcm_s16le",
            )
    rows = [
        {"id": f"u{i}", "dialogue": f"d{i // 10}", "speaker": "A", "text": "What do you want?", "media": f"{i % 4}.wav"}
        for i in range(count)
    ]
    (tmp_path / f"{count}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [
        "extract",
        "manifest",
        tmp_path / f"{count}.jsonl",
        "--out",
        tmp_path / f"{count}.h5",
        "--modalities",
        "text,audio",
        "--text-model",
        text_encoder,
        "--audio-set",
        "ComParE_2016",
    ]
    out = subprocess.run(
        [sys.executable, "-c", _EXTRACT, *map(str, command)], capture_output=True, text=True, check=True
    ).stdout
    return int(out.rsplit("peak", 1)[1])


@pytest.mark.slow
def test_extraction_is_flat(tmp_path, text_encoder):
    """What more utterances take in memory is a small part of what their features are.

    With the first number all parts are of full size and as many as ever are under way at once.
    """
    few, many = peak_bytes(tmp_path, text_encoder, 600), peak_bytes(tmp_path, text_encoder, 1200)
    assert many - few < 600 * COLUMNS * 4 / 2, (few, many)


def test_ten_epochs_of_reading_are_flat(tmp_path, utterances):
    n = len(utterances)
    with StoreWriter(tmp_path / "s.h5", corpus="small", labels=["joy", "sadness"], utterances=utterances) as writer:
        for name in ("a", "b"):
            values = np.random.default_rng(0).normal(size=(n, 6_000)).astype(np.float32)
            writer.add_feature("audio", name, values, np.ones(n, bool), [""] * n)
    out = subprocess.run(
        [sys.executable, "-c", _READ, tmp_path / "s.h5"], capture_output=True, text=True, check=True
    ).stdout
    used, opened = zip(*(map(int, line.split()) for line in out.splitlines()), strict=True)
    one_epoch = 2 * n * 6_000 * 4
    assert len(used) == 10 and used[-1] - used[1] < one_epoch / 4, used
    assert len(set(opened)) == 1, f"HDF5 objects stay open: {opened}"
