"""Extraction on a Ray cluster: what it costs on one machine, and how far it would scale.

    python benchmarks/cluster.py overhead [--dialogues 40] [--rounds 2]
    python benchmarks/cluster.py simulate MEASURED.json [--hours 1000] [--cores 16]

`overhead` extracts the demo corpus with the local engine and with Ray in turns, on the same cores, and prints the
ratio, with and without what is the same for any number of clips (starting Ray, loading encoders there). With `--json`
it writes what a part takes: work on a node, bytes that come back, time of the driver. `simulate` plays the run of a
larger corpus from these, event by event, with 1 to 1024 nodes.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from erc_toolkit.toolkit.base.cores import core_count
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeaturePart, StoreWriter

NODES = (1, 4, 16, 64, 256, 1024)
NETWORK = 125e6  # bytes per second that the driver receives: a gigabit
READING = 125e6  # bytes per second that a node reads of the corpus


@dataclass
class Measured:
    """What one run has measured. A part is one of media, with its share of what texts take.

    Attributes:
        work: seconds of work of each part, summed over its processes.
        bytes: of a part's result.
        driver: seconds of the driver for a part: unpacking and writing it durably.
        efficiency: work done per second of a core while parts were computed.
        begin: seconds from the start of a run until nodes compute.
        assembly: seconds for each utterance in which a large store is written, by the difference of two sizes.
        utterances: of a part, on average.
        seconds, media: of an utterance: its duration, and bytes of its files.
    """

    work: list[float]
    bytes: float
    driver: float
    efficiency: float
    begin: float
    assembly: float
    utterances: float
    seconds: float
    media: float

    @classmethod
    def of(cls, one: dict[str, Any]) -> Measured:
        """What a run has printed."""
        media = [part for part in one["parts"] if part["media"]]
        texts = [part for part in one["parts"] if not part["media"]]
        of_text = sum(part["work"] for part in texts) / len(media)
        work, n = [part["work"] + of_text for part in media], one["utterances"]
        return cls(
            work=work,
            bytes=sum(part["bytes"] for part in one["parts"]) / len(media),
            driver=sum(part["driver"] for part in one["parts"]) / len(media),
            efficiency=sum(work) / one["computing"] / core_count(),
            begin=one["begin"],
            assembly=assembly(one["dims"]),
            utterances=n / len(media),
            seconds=one["media_seconds"] / n,
            media=one["media_bytes"] / n,
        )


CHILD = """
import json, sys, time
from pathlib import Path
from erc_toolkit.extract.run.remote import compute
from erc_toolkit.toolkit.demo.corpus import make_corpus
import erc_toolkit
from erc_toolkit.extract.corpora.registry import read_corpus
root, out, engine, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
parts, first = [], []
unpack, write = compute.unpacked_part, compute.RemoteParts._write
def unpacked(data):
    first.append(time.perf_counter())
    found = unpack(data)
    media = not all(key.startswith("text/") for key in found.rows)
    parts.append({"media": media, "work": sum(found.seconds.values()), "bytes": len(data)})
    return found
def written(*given):
    write(*given)
    parts[-1]["driver"] = time.perf_counter() - first[-1]
compute.unpacked_part, compute.RemoteParts._write = unpacked, written
begun = []
ready = compute.Team._consider
def consider(team):
    ready(team)
    begun.append(time.perf_counter())
compute.Team._consider = consider
start = time.perf_counter()
manifest = read_corpus("meld", root)
found = erc_toolkit.extract(manifest, out, engine=engine, notify=lambda line: None, **options)
end = time.perf_counter()
computing = found.costs.stages["media"] if not begun else first[-1] - begun[0]
print(json.dumps({
    "whole": end - start, "computing": computing, "begin": begun[0] - start if begun else 0.0,
    "parts": parts, "dims": {name: dim for name, (dim, _, _) in found.features.items()},
    "utterances": found.utterances, "media_seconds": found.media_seconds,
    "media_bytes": sum(p.stat().st_size for p in {manifest.path(u.media) for u in manifest.utterances}),
}))
"""


def overhead(given: argparse.Namespace) -> None:
    from erc_toolkit.toolkit.demo.corpus import make_corpus
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder
    from erc_toolkit.toolkit.store import FeatureStore

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus = given.corpus or folder / "corpus"
        if given.corpus is None or not corpus.exists():
            make_corpus(corpus, seed=1, train=given.dialogues, dev=1, test=1)
        encoder = make_text_encoder(folder / "encoder", ["What do you want from me?", "I am so happy!"] * 3)
        options = {
            "text_model": str(encoder),
            "audio_set": given.audio_set,
            "visual_model": "denseface",
            "visual_weights": "random",
            "face_detector": "haar",
            "part_size": given.part_size,
        }
        found: dict[str, list[dict]] = {"local": [], "ray": []}
        hashes = set()
        for number in range(given.rounds):
            for engine in ("local", "ray") if number % 2 == 0 else ("ray", "local"):
                out = folder / f"{engine}.h5"
                out.unlink(missing_ok=True)
                call = [sys.executable, "-c", CHILD, corpus, out, engine, json.dumps(options)]
                done = subprocess.run([*map(str, call)], capture_output=True, text=True, check=False, cwd=folder)
                if done.returncode:
                    sys.exit(done.stderr)
                one = json.loads(done.stdout.splitlines()[-1])
                found[engine].append(one)
                with FeatureStore.open(out) as store:
                    hashes.add(store.content_hash)
                print(
                    f"{engine:6} whole {one['whole']:6.1f} s, computing {one['computing']:6.1f} s, before "
                    f"{one['begin']:5.1f} s",
                    flush=True,
                )
    n, same = found["ray"][0]["utterances"], "equal" if len(hashes) == 1 else "NOT EQUAL"
    print(f"{n} utterances on {core_count()} cores, parts of {given.part_size}; content {same}")
    for key in ("computing", "whole"):
        here, there = (statistics.median(one[key] for one in found[engine]) for engine in ("local", "ray"))
        print(f"{key:10} local {here:6.1f} s, Ray {there:6.1f} s: ratio {there / here:.3f}")
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(Measured.of(found["ray"][-1]))))


def assembly(dims: dict[str, int], sizes: tuple[int, int] = (2_000, 22_000)) -> float:
    """Seconds for each further utterance of a store with features of these widths, written part by part."""
    took = []
    with tempfile.TemporaryDirectory() as place:
        for n in sizes:
            utterances = [
                Utterance(f"u{i}", f"d{i // 10}", i % 10, "ann", f"some words of a sentence, {i}", "joy", "train")
                for i in range(n)
            ]
            rng = np.random.default_rng(0)
            began = time.perf_counter()
            path = Path(place) / f"{n}.h5"
            with StoreWriter(path, corpus="c", labels=["joy"], utterances=utterances, command="") as writer:
                for name, dim in dims.items():
                    modality, _, feature = name.partition("/")
                    ends = [(i, min(n, i + 32)) for i in range(0, n, 32)]
                    values = rng.normal(size=(32, dim)).astype(np.float32)
                    parts = (FeaturePart(a, values[: b - a], [""] * (b - a), {}) for a, b in ends)
                    writer.add_feature_parts(modality, feature, dim, parts, attrs={})
            took.append(time.perf_counter() - began)
    return (took[1] - took[0]) / (sizes[1] - sizes[0])


def play(measured: Measured, hours: float, nodes: int, cores: int) -> dict[str, float]:
    """A run from its start to its store, event by event.

    A node computes a part on every two cores, each of which has another one waiting. The driver takes one result after
    the other from the network, writes it, and hands the next part out.
    """
    utterances = hours * 3600 / measured.seconds
    parts = max(1, round(utterances / measured.utterances))
    lanes = nodes * max(1, cores // 2)
    reading = measured.media * measured.utterances * max(1, cores // 2) / READING  # which the node's lanes share
    took = [max(reading, work / (2 * measured.efficiency)) for work in measured.work]
    driver = measured.driver + measured.bytes / NETWORK
    rng = random.Random(0)
    given, free, busy, last = 0, 0.0, 0.0, 0.0
    events: list[
        tuple[float, int, bool]
    ] = []  # when, which lane, and whether it is the driver that is done with a part
    waiting, idle = [0] * lanes, [True] * lanes

    def begin(now: float, lane: int) -> None:
        if idle[lane] and waiting[lane]:
            idle[lane], waiting[lane] = False, waiting[lane] - 1
            heapq.heappush(events, (now + rng.choice(took), lane, False))

    for _ in range(2):
        for lane in range(lanes):
            if given < parts:
                given, waiting[lane] = given + 1, waiting[lane] + 1
                begin(0.0, lane)
    while events:
        now, lane, written = heapq.heappop(events)
        if written:
            last = now
            if given < parts:
                given, waiting[lane] = given + 1, waiting[lane] + 1
        else:
            free, busy = max(free, now) + driver, busy + driver
            heapq.heappush(events, (free, lane, True))
            idle[lane] = True
        begin(now, lane)
    assembly = measured.assembly * utterances
    return {
        "parts": parts,
        "computing": last,
        "assembly": assembly,
        "whole": measured.begin + last + assembly,
        "driver": busy / last,
        "rate": measured.bytes * parts / last,
    }


def simulate(given: argparse.Namespace) -> None:
    measured = Measured(**json.loads(given.measured.read_text()))
    if given.part_size is not None:  # what the driver needs for a part is mostly waiting for its disk
        scale = given.part_size / measured.utterances
        work = [scale * one for one in measured.work]
        measured = replace(measured, work=work, bytes=scale * measured.bytes, utterances=given.part_size)
    print(
        f"{given.hours:g} hours, nodes of {given.cores} cores; a part of {measured.utterances:.0f} utterances takes "
        f"{statistics.fmean(measured.work):.1f} s of work, {measured.bytes / 1e6:.2f} MB of result, and "
        f"{1000 * measured.driver:.0f} ms of the driver; assembly {1e6 * measured.assembly:.0f} µs an utterance"
    )
    columns = ("nodes", "whole", "computing", "assembly", "driver busy", "to the driver", "speed-up", "efficiency")
    print(" | ".join(columns))
    first = None
    for nodes in NODES:
        one = play(measured, given.hours, nodes, given.cores)
        first = first or one["whole"]
        up = first / one["whole"]
        shown = (
            f"{nodes:5}",
            f"{one['whole'] / 3600:.2f} h",
            f"{one['computing'] / 3600:.2f} h",
            f"{one['assembly'] / 60:.1f} min",
            f"{one['driver']:.0%}",
            f"{one['rate'] / 1e6:.2f} MB/s",
            f"{up:.1f}",
            f"{up / nodes:.0%}",
        )
        print(" | ".join(shown))
    lanes = max(1, given.cores // 2)
    reading = measured.media * measured.utterances * lanes / READING
    took = statistics.fmean(max(reading, work / (2 * measured.efficiency)) for work in measured.work)
    driver = measured.driver + measured.bytes / NETWORK
    tail = max(measured.work) / (2 * measured.efficiency)
    print(
        f"from {took / driver / lanes:.0f} nodes on the driver, which needs {1000 * driver:.0f} ms for a part, has no "
        f"rest, and more nodes gain nothing; the longest part takes {tail:.0f} s, and before the first one pass "
        f"{measured.begin:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("overhead")
    one.add_argument("--corpus", type=Path, help="a demo corpus, made there if it does not exist")
    one.add_argument("--dialogues", type=int, default=40)
    one.add_argument("--rounds", type=int, default=2)
    one.add_argument("--part-size", type=int, default=32)
    one.add_argument("--audio-set", default="eGeMAPSv02")
    one.add_argument("--json", type=Path)
    one.set_defaults(run=overhead)
    two = commands.add_parser("simulate")
    two.add_argument("measured", type=Path)
    two.add_argument("--hours", type=float, default=1000)
    two.add_argument("--cores", type=int, default=16)
    two.add_argument("--part-size", type=int, help="of the run, if it is not that of the measured one")
    two.set_defaults(run=simulate)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
