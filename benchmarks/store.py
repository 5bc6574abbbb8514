"""Reading a feature store of MELD's size, compared with plain files of the same bytes and with the usual pickle.

    python benchmarks/store.py [--rounds 15] [--dialogues 300] [--processes 1 2 4] [--folder DIR]

The features are random. Everything is read from the page cache, so the format is timed, not the disk. "Plain" is
`np.fromfile` of the same float32 numbers into new memory, which the store's reader returns as well; "into existing
memory" is `readinto` of the same file, without the cost of new memory; "into aligned memory" is new memory, aligned to
a large page like that of the store's reader: the limit for plain reading. The pickle has the format that papers use: a
tuple of dicts from a dialogue to a list of its utterances' vectors. All results are checked for equality before
anything is timed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import h5py
import numpy as np

from erc_toolkit.toolkit.base.cores import core_count
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import Feature, FeatureStore, StoreWriter

DIMS = {"text/roberta-large": 1024, "audio/IS10": 1582, "visual/denseface": 342}
SPLITS = {"train": (1038, 9989), "val": (114, 1109), "test": (280, 2610)}  # MELD's dialogues and utterances
DIALOGUE = 700  # read right after opening
EMOTIONS = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]


@dataclass(frozen=True)
class Files:
    """The same features as a store, a plain file (matrix after matrix) and a pickle; and the dialogues' offsets."""

    store: Path
    plain: Path
    pickle: Path
    offsets: np.ndarray

    @property
    def nbytes(self) -> int:
        """Size of all features in bytes."""
        return self.plain.stat().st_size


def write_files(folder: Path) -> Files:
    """Writes the files, 162 MB each."""
    rng = np.random.default_rng(0)
    utterances = []
    for split, (dialogues, total) in SPLITS.items():
        lengths = 1 + rng.multinomial(total - dialogues, np.full(dialogues, 1 / dialogues))
        for d, length in enumerate(lengths.tolist()):
            drawn = zip(
                rng.integers(3, size=length), rng.integers(2, 15, length), rng.integers(7, size=length), strict=True
            )
            utterances += [
                Utterance(
                    f"{split}{d}_{i}", f"{split}{d}", i, f"s{speaker}", "words " * words, EMOTIONS[emotion], split
                )
                for i, (speaker, words, emotion) in enumerate(drawn)
            ]
    n = len(utterances)
    paths = folder / "store.h5", folder / "plain.f32", folder / "features.pkl"
    writer = StoreWriter(paths[0], corpus="meld", labels=EMOTIONS, utterances=utterances)
    with writer, open(paths[1], "wb") as plain:
        for name, dim in DIMS.items():
            values = rng.standard_normal((n, dim), np.float32)
            values.tofile(plain)
            writer.add_feature(*name.split("/"), values, np.ones(n, bool), [""] * n)
    with FeatureStore.open(paths[0]) as store:
        offsets, labels, speakers = store.offsets, store.column("label"), store.column("speaker")
        columns = [store.column("id"), speakers, labels] + [store.feature(name).values() for name in DIMS]
        rows = list(store.dialogues())
    # Each vector is a separate array, as if vectors had been collected one by one.
    whole = tuple({d: [np.array(x) if np.ndim(x) else x for x in column[r]] for d, r in rows} for column in columns)
    with open(paths[2], "wb") as file:
        pickle.dump(whole, file, protocol=4)
    return Files(*paths, offsets)


def features_of(store: FeatureStore) -> list[Feature]:
    return [store.feature(name) for name in DIMS]


def read_plain(path: Path) -> np.ndarray:
    return np.fromfile(path, np.float32)


def read_into(path: Path, buffer: np.ndarray) -> None:
    with open(path, "rb", buffering=0) as file:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            done += file.readinto(view[done:])


def read_aligned(path: Path) -> np.ndarray:
    """Reads into new memory aligned to a page of 2 MiB, which is copied faster and needs fewer small pages."""
    size, page = path.stat().st_size, 1 << 21
    room = np.empty(size + 2 * page, np.uint8)
    shift = -room.ctypes.data % page
    values = room[shift : shift + size].view(np.float32)
    read_into(path, values)
    return values


def dialogue_plain(path: Path, first: int, last: int, n: int) -> list[np.ndarray]:
    """The rows of a dialogue in the three matrices."""
    parts, start = [], 0
    for dim in DIMS.values():
        parts.append(
            np.fromfile(path, np.float32, (last - first) * dim, offset=4 * (start + first * dim)).reshape(-1, dim)
        )
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


DIALOGUE_FROM_FILE = {"store": dialogue_opened, "pickle": dialogue_unpickled}


def check(files: Files) -> None:
    """Checks that all ways of reading return the same values."""
    n = int(files.offsets[-1])
    buffer = np.empty(files.nbytes // 4, np.float32)
    read_into(files.plain, buffer)
    with FeatureStore.open(files.store) as store:
        whole = np.concatenate([feature.values().ravel() for feature in features_of(store)])
    for plain in (read_plain(files.plain), read_aligned(files.plain), buffer):
        assert (whole == plain).all()
    for d in (0, DIALOGUE, len(files.offsets) - 2):
        ours, plain = (
            dialogue_opened(files.store, d),
            dialogue_plain(files.plain, *files.offsets[d : d + 2].tolist(), n),
        )
        for a, b, c in zip(ours, plain, dialogue_unpickled(files.pickle, d), strict=True):
            assert (a == b).all() and (a == np.stack(c)).all()


def once(work: Callable[..., object], *arguments: object) -> float:
    """Seconds of one round."""
    began = time.perf_counter()
    result = work(*arguments)
    seconds = time.perf_counter() - began
    del result  # not timed, and before the next allocation
    return seconds


def in_turn(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each round of each work; in turn, so that load affects all alike. The first round is a warm-up."""
    seconds = [{name: once(work) for name, work in works.items()} for _ in range(rounds + 1)]
    return {name: [turn[name] for turn in seconds[1:]] for name in works}


def reader(files: Files, kind: str, rounds: int, barrier, pipe) -> None:
    """One of several processes: reads everything in each round; sends when each round began and ended."""
    times = []
    with FeatureStore.open(files.store) as store:
        features = features_of(store)
        for _ in range(rounds + 1):
            barrier.wait()
            began = time.perf_counter()
            result = [feature.values() for feature in features] if kind == "store" else read_plain(files.plain)
            times.append((began, time.perf_counter()))
            del result
    pipe.send(times)


def newcomer(files: Files, kind: str, _barrier, pipe) -> None:
    """A new process that reads a dialogue directly after its imports; sends the seconds."""
    pipe.send(once(DIALOGUE_FROM_FILE[kind], getattr(files, kind), DIALOGUE))


def in_processes(work: Callable[..., None], count: int, *given: object) -> list:
    """What `count` new processes that run `work` concurrently send."""
    context = multiprocessing.get_context("spawn")
    barrier, pipes, processes = context.Barrier(count), [], []
    for _ in range(count):
        here, there = context.Pipe(duplex=False)
        # A daemon, so that those waiting at the barrier end with this process if one of them fails.
        processes.append(context.Process(target=work, args=(*given, barrier, there), daemon=True))
        processes[-1].start()
        there.close()
        pipes.append(here)
    sent = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return sent


def together(files: Files, kind: str, count: int, rounds: int) -> list[float]:
    """Seconds from the first start to the last end of each round of `count` processes that read everything."""
    times = np.array(in_processes(reader, count, files, kind, rounds))
    return (times[:, 1:, 1].max(0) - times[:, 1:, 0].min(0)).tolist()


def line(what: str, seconds: Sequence[float], size: float | None = None, compared: str = "") -> None:
    """Prints a row: median and range, in GB/s if a size in bytes is given, otherwise in ms."""
    numbers = [size / s / 1e9 for s in seconds] if size else [1000 * s for s in seconds]
    low, middle, high = np.percentile(numbers, 10), median(numbers), np.percentile(numbers, 90)
    print(f"| {what} | {middle:.3g} {'GB/s' if size else 'ms'} | {low:.3g} to {high:.3g} | {compared} |", flush=True)


def everything(files: Files, rounds: int) -> None:
    """Rows: reading all features in one process."""
    size = files.nbytes
    with FeatureStore.open(files.store) as store:
        features, buffer = features_of(store), np.empty(size // 4, np.float32)
        t = in_turn(
            rounds,
            {
                "plain": lambda: read_plain(files.plain),
                "into": lambda: read_into(files.plain, buffer),
                "aligned": lambda: read_aligned(files.plain),
                "store": lambda: [feature.values() for feature in features],
            },
        )
    plain = median(t["plain"])
    line("all features, plain", t["plain"], size)
    line("all features, plain, into existing memory", t["into"], size, f"{plain / median(t['into']):.0%} of plain")
    line("all features, plain, into aligned memory", t["aligned"], size, f"{plain / median(t['aligned']):.0%} of plain")
    best = median(t["aligned"]) / median(t["store"])
    line(
        "all features, store",
        t["store"],
        size,
        f"{plain / median(t['store']):.0%} of plain (goal 80 %), {best:.0%} of aligned",
    )


def dialogues(files: Files, count: int) -> None:
    """Rows: reading random dialogues of an open store."""
    with FeatureStore.open(files.store) as store:
        features, n = features_of(store), len(store)
        plain, ours = [], []
        # Each once, without a warm-up: a dialogue that is read again comes from the processor's caches.
        for d in np.random.default_rng(1).permutation(len(store.dialogue_ids))[:count].tolist():
            plain.append(once(dialogue_plain, files.plain, *files.offsets[d : d + 2].tolist(), n))
            ours.append(once(lambda rows: [feature.values(rows) for feature in features], store.rows(d)))
    line("a random dialogue, plain", plain)
    line("a random dialogue, store open", ours, None, f"{median(ours) / median(plain):.1f} times plain")


def from_file(files: Files, rounds: int) -> None:
    """Rows: one dialogue from a file that is not open, against the pickle."""
    again = in_turn(
        rounds,
        {
            "open": lambda: FeatureStore.open(files.store).close(),
            "store": lambda: dialogue_opened(files.store, DIALOGUE),
        },
    )
    # Separately, as it evicts everything from the processor's caches.
    again |= in_turn(rounds, {"pickle": lambda: dialogue_unpickled(files.pickle, DIALOGUE)})
    first = {kind: [in_processes(newcomer, 1, files, kind)[0] for _ in range(rounds)] for kind in DIALOGUE_FROM_FILE}
    line("opening the store", again["open"])
    for t, where in ((again, ""), (first, ", in a new process")):
        ratio = median(t["pickle"]) / median(t["store"])
        line(f"opening the store and a dialogue{where}", t["store"])
        line(f"unpickling, and a dialogue{where}", t["pickle"], None, f"{ratio:.1f} times the store (goal 100)")


def run(options: argparse.Namespace, folder: Path) -> None:
    files = write_files(folder)
    check(files)
    stored, pickled = (path.stat().st_size / 1e6 for path in (files.store, files.pickle))
    print(
        f"{files.offsets[-1]:,} utterances in {len(files.offsets) - 1:,} dialogues, {files.nbytes / 1e6:.0f} MB of "
        f"features; store {stored:.0f} MB, pickle {pickled:.0f} MB; {core_count()} cores, "
        f"{platform.processor() or platform.machine()}, h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
    )
    print("\n| reading | median | 10th to 90th percentile | compared |\n|---|---|---|---|")
    everything(files, options.rounds)
    dialogues(files, options.dialogues)
    from_file(files, options.rounds)
    for count in options.processes:
        plain, ours = (together(files, kind, count, options.rounds) for kind in ("plain", "store"))
        name = f"all features by {count} process{'es' if count > 1 else ''} concurrently"
        line(f"{name}, plain", plain, count * files.nbytes)
        line(f"{name}, store", ours, count * files.nbytes, f"{median(plain) / median(ours):.0%} of plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dialogues", type=int, default=300, help="number of dialogues to read, each once")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, help="folder for temporary files (0.5 GB)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
