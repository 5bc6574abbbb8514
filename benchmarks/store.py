"""Reading a feature store of MELD's size, against plain files of the same bytes and against the field's usual pickle.

    python benchmarks/store.py [--rounds 15] [--dialogues 300] [--processes 1 2 4] [--folder DIR]

The features are random. Everything is read from the page cache: what is timed is the format, not the disk. "Plain" is
`np.fromfile` of the same float32 numbers into new memory, as the store's reader gives new memory too; "into memory that is
there" is `readinto` of the same file, without the cost of new memory. The pickle is what papers of the field publish: a tuple of
dicts from a dialogue to a list of its utterances' vectors. That all give the same numbers is checked before anything is timed.
"""

from __future__ import annotations

# ruff: noqa: E402
import sys
from pathlib import Path

if Path(sys.path[0]) == Path(__file__).parent:
    del sys.path[0]  # other files here have the names of packages

import argparse
import multiprocessing
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from toolkit.manifest import Utterance
from toolkit.store import Feature, FeatureStore, StoreWriter

DIMS = {"text/roberta-large": 1024, "audio/IS10": 1582, "visual/denseface": 342}
SPLITS = {"train": (1038, 9989), "val": (114, 1109), "test": (280, 2610)}  # MELD's dialogues and utterances
EMOTIONS = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]


@dataclass(frozen=True)
class Files:
    """The same features three times: store, one plain file (matrix after matrix), pickle; and the dialogues' offsets."""

    store: Path
    plain: Path
    pickle: Path
    offsets: np.ndarray

    @property
    def nbytes(self) -> int:
        """Of all features."""
        return self.plain.stat().st_size


def write_files(folder: Path) -> Files:
    """Writes them; 162 MB each."""
    rng = np.random.default_rng(0)
    utterances = []
    for split, (dialogues, total) in SPLITS.items():
        lengths = 1 + rng.multinomial(total - dialogues, np.full(dialogues, 1 / dialogues))
        for d, length in enumerate(lengths.tolist()):
            speakers, emotions, words = rng.integers(3, size=length), rng.integers(7, size=length), rng.integers(2, 15, length)
            utterances += [
                Utterance(f"{split}{d}_{i}", f"{split}{d}", i, f"s{speakers[i]}", "words " * words[i], EMOTIONS[emotions[i]], split)
                for i in range(length)
            ]
    n = len(utterances)
    files = Files(folder / "store.h5", folder / "plain.f32", folder / "features.pkl", None)
    with StoreWriter(files.store, corpus="meld", labels=EMOTIONS, utterances=utterances) as writer, open(files.plain, "wb") as plain:
        for name, dim in DIMS.items():
            values = rng.standard_normal((n, dim), np.float32)
            values.tofile(plain)
            writer.add_feature(*name.split("/"), values, np.ones(n, bool), [""] * n)
    with FeatureStore.open(files.store) as store:
        offsets, labels, speakers = store.offsets, store.column("label"), store.column("speaker")
        columns = [store.column("id"), speakers, labels] + [store.feature(name).values() for name in DIMS]
        rows = list(store.dialogues())
    # Each vector is an array of its own, as it is where vectors were collected one by one.
    whole = tuple({d: [np.array(x) if np.ndim(x) else x for x in column[r]] for d, r in rows} for column in columns)
    with open(files.pickle, "wb") as file:
        pickle.dump(whole, file, protocol=4)
    return Files(files.store, files.plain, files.pickle, offsets)


def features_of(store: FeatureStore) -> list[Feature]:
    return [store.feature(name) for name in DIMS]


def read_plain(path: Path) -> np.ndarray:
    return np.fromfile(path, np.float32)


def read_into(path: Path, buffer: np.ndarray) -> None:
    with open(path, "rb", buffering=0) as file:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            done += file.readinto(view[done:])


def dialogue_plain(path: Path, first: int, last: int, n: int) -> list[np.ndarray]:
    """The three matrices' rows of a dialogue."""
    parts, start = [], 0
    for dim in DIMS.values():
        parts.append(np.fromfile(path, np.float32, (last - first) * dim, offset=4 * (start + first * dim)).reshape(-1, dim))
        start += n * dim
    return parts


def dialogue_opened(path: Path, d: int) -> list[np.ndarray]:
    with FeatureStore.open(path) as store:
        return [feature.values(store.rows(d)) for feature in features_of(store)]


def dialogue_unpickled(path: Path, d: int) -> list[list[np.ndarray]]:
    with open(path, "rb") as file:
        whole = pickle.load(file)
    name = list(whole[0])[d]
    return [vectors[name] for vectors in whole[3:]]


def check(files: Files) -> None:
    """That all ways give the same numbers."""
    n = int(files.offsets[-1])
    buffer = np.empty(files.nbytes // 4, np.float32)
    read_into(files.plain, buffer)
    with FeatureStore.open(files.store) as store:
        whole = np.concatenate([feature.values().ravel() for feature in features_of(store)])
    assert (whole == read_plain(files.plain)).all() and (whole == buffer).all()
    for d in (0, 700, len(files.offsets) - 2):
        first, last = files.offsets[d : d + 2]
        for a, b, c in zip(dialogue_opened(files.store, d), dialogue_plain(files.plain, first, last, n), dialogue_unpickled(files.pickle, d)):
            assert (a == b).all() and (a == np.stack(c)).all()


def once(work: Callable[[], object]) -> float:
    """Seconds of one round."""
    began = time.perf_counter()
    given = work()
    seconds = time.perf_counter() - began
    del given  # outside the time, and before the next asks for memory
    return seconds


def in_turn(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each round of each work; in turn, so that a slow moment hits all. The first round warms up."""
    seconds = [{name: once(work) for name, work in works.items()} for _ in range(rounds + 1)]
    return {name: [turn[name] for turn in seconds[1:]] for name in works}


def reader(files: Files, kind: str, rounds: int, barrier, pipe) -> None:
    """One process of several: reads everything at the barrier, round by round; sends when each round began and ended."""
    times = []
    with FeatureStore.open(files.store) as store:
        features = features_of(store)
        for _ in range(rounds + 1):
            barrier.wait()
            began = time.perf_counter()
            given = [feature.values() for feature in features] if kind == "store" else read_plain(files.plain)
            times.append((began, time.perf_counter()))
            del given
    pipe.send(times)


def together(files: Files, kind: str, count: int, rounds: int) -> list[float]:
    """Seconds from the first start to the last end of each round of `count` processes."""
    context = multiprocessing.get_context("spawn")
    barrier, pipes, processes = context.Barrier(count), [], []
    for _ in range(count):
        here, there = context.Pipe(duplex=False)
        processes.append(context.Process(target=reader, args=(files, kind, rounds, barrier, there)))
        processes[-1].start()
        there.close()
        pipes.append(here)
    times = np.array([pipe.recv() for pipe in pipes])
    for process in processes:
        process.join()
    return (times[:, 1:, 1].max(0) - times[:, 1:, 0].min(0)).tolist()


def line(what: str, seconds: Sequence[float], size: float | None = None, compared: str = "") -> None:
    """A row: median and range, in GB/s where a size in bytes is given, in ms elsewhere."""
    told = [size / s / 1e9 for s in seconds] if size else [1000 * s for s in seconds]
    low, middle, high = np.percentile(told, 10), statistics.median(told), np.percentile(told, 90)
    print(f"| {what} | {middle:.3g} {'GB/s' if size else 'ms'} | {low:.3g} to {high:.3g} | {compared} |", flush=True)


def run(options: argparse.Namespace, folder: Path) -> None:
    files = write_files(folder)
    check(files)
    n, size = int(files.offsets[-1]), files.nbytes
    print(f"{n:,} utterances in {len(files.offsets) - 1:,} dialogues, {size / 1e6:.0f} MB of features; store {files.store.stat().st_size / 1e6:.0f} MB, "
          f"pickle {files.pickle.stat().st_size / 1e6:.0f} MB; {os.cpu_count()} cores, h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}")  # fmt: skip
    print("\n| reading | median | 10th to 90th percentile | compared |\n|---|---|---|---|")
    median = statistics.median
    with FeatureStore.open(files.store) as store:
        features, buffer = features_of(store), np.empty(size // 4, np.float32)
        t = in_turn(options.rounds, {
            "plain": lambda: read_plain(files.plain), "into": lambda: read_into(files.plain, buffer),
            "store": lambda: [feature.values() for feature in features],
        })  # fmt: skip
        line("all features, plain", t["plain"], size)
        line("all features, plain, into memory that is there", t["into"], size, f"{median(t['plain']) / median(t['into']):.0%} of plain")
        line("all features, store", t["store"], size, f"{median(t['plain']) / median(t['store']):.0%} of plain (goal 80 %)")
        t = {"plain": [], "store": []}
        # Each once, without a round to warm up: a dialogue that is read again comes from HDF5's cache of chunks.
        for d in np.random.default_rng(1).permutation(len(files.offsets) - 1)[: options.dialogues].tolist():
            first, last = int(files.offsets[d]), int(files.offsets[d + 1])
            t["plain"].append(once(lambda: dialogue_plain(files.plain, first, last, n)))
            t["store"].append(once(lambda: [feature.values(store.rows(d)) for feature in features]))
        line("a random dialogue, plain", t["plain"])
        line("a random dialogue, store open", t["store"], None, f"{median(t['store']) / median(t['plain']):.1f} times plain")
    t = in_turn(options.rounds, {
        "open": lambda: FeatureStore.open(files.store).close(), "store": lambda: dialogue_opened(files.store, 700),
        "pickle": lambda: dialogue_unpickled(files.pickle, 700),
    })  # fmt: skip
    line("opening the store", t["open"])
    line("opening the store and a dialogue", t["store"])
    line("unpickling, and a dialogue", t["pickle"], None, f"{median(t['pickle']) / median(t['store']):.1f} times the store (goal 100)")
    for count in options.processes:
        plain, ours = (together(files, kind, count, options.rounds) for kind in ("plain", "store"))
        name = f"all features by {count} process{'es' if count > 1 else ''} at once"
        line(f"{name}, plain", plain, count * size)
        line(f"{name}, store", ours, count * size, f"{median(plain) / median(ours):.0%} of plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dialogues", type=int, default=300, help="how many to read, each once")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, help="where the temporary files lie; they take 0.5 GB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
