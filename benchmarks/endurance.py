"""What a long extraction holds on to: memory, open files, temporary files, processes, by tenths of its progress.

    python benchmarks/endurance.py [--utterances 20000] [--visual] [--part-size 32] [--json FILE]

The corpus is 200 clips of 0.3 s with a drawn face and a voice, among them a few broken ones (empty, cut, no audio
track, no file); utterances share them in turn, each by a name of its own (a hard link), so that every utterance is a
file that is opened and decoded. Text through a RoBERTa of two layers made on the spot, openSMILE's eGeMAPS, with
--visual also faces (OpenCV's Haar cascade) through an untrained denseface. The command is a process with its own
session and its own TMPDIR; every second all processes of the session are looked at in /proc, so that this needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from erc_toolkit.toolkit.demo.clips import write_clip
from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.demo.faces import render
from erc_toolkit.toolkit.demo.looks import SPEAKERS, speaker_look
from erc_toolkit.toolkit.store import FeatureStore

CLIPS, SECONDS, FPS, RATE = 200, 0.3, 15, 16_000
TEXTS = ["What do you want from me?", "I am so happy to see you!", "This is the worst day of my life.", "Hm.", ""]
TENTHS = 10


@dataclass
class Sample:
    """The command at one moment.

    Attributes:
        seconds: since it was started.
        done: utterances whose audio part is on disk.
        main, workers: memory of the first process and of all others in bytes, shared pages divided among their users.
        processes, zombies: number of processes in its session; those that ended and were not waited for.
        ffmpeg: number of processes whose program is ffmpeg or ffprobe.
        files: open files, pipes and sockets of all processes.
        temporary: bytes in its TMPDIR.
        parts: bytes in the folder of finished parts.
    """

    seconds: float
    done: int
    main: int
    workers: int
    processes: int
    zombies: int
    ffmpeg: int
    files: int
    temporary: int
    parts: int


def write_corpus(folder: Path, count: int) -> Path:
    """Writes clips and a manifest of `count` utterances in dialogues of ten; returns the manifest."""
    clips, links = folder / "clips", folder / "media"
    clips.mkdir()
    links.mkdir()
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        name = clips / f"{i}.mp4"
        voice = (0.2 * np.sin(np.arange(int(SECONDS * RATE)) * rng.uniform(0.05, 0.1))).astype(np.float32)
        voice += rng.normal(0, 0.01, len(voice)).astype(np.float32)
        frames, _ = render(
            speaker_look(0, SPEAKERS[i % len(SPEAKERS)]), "joy", np.ones(max(2, int(SECONDS * FPS))), rng
        )
        write_clip(name, frames, None if i % 50 == 1 else voice, fps=FPS, sample_rate=RATE)
        if i % 50 == 2:
            name.write_bytes(b"")
        elif i % 50 == 3:
            name.write_bytes(name.read_bytes()[: name.stat().st_size // 2])
    with open(folder / "m.jsonl", "w") as file:
        for i in range(count):
            if i % CLIPS != 4:  # which has no file
                os.link(clips / f"{i % CLIPS}.mp4", links / f"{i}.mp4")
            row = {"id": f"u{i}", "dialogue": f"d{i // 10}", "media": f"media/{i}.mp4"}
            row |= {
                "speaker": SPEAKERS[i % len(SPEAKERS)],
                "text": TEXTS[i % len(TEXTS)],
                "label": ["joy", "anger"][i % 2],
            }
            file.write(json.dumps(row) + "\n")
    return folder / "m.jsonl"


def watch(command: list[str], folder: Path, out: Path, part_size: int, every: float = 1.0) -> Iterator[Sample]:
    """Runs the command and yields a sample every few moments; raises if it fails or leaves a process behind."""
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    began, done = time.monotonic(), 0
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        while process.poll() is None:
            sample = _sample(process.pid, temporary, out, part_size, time.monotonic() - began)
            if sample is not None:
                sample.done = done = max(done, sample.done)  # the parts are removed when the store is there
                yield sample
            time.sleep(every)
    if process.returncode:
        raise SystemExit(f"the command failed:\n{(folder / 'log').read_text()[-2000:]}")
    time.sleep(2)
    if left := [pid for pid, _ in _session(process.pid)]:
        raise SystemExit(f"processes left behind: {left}")


def _session(leader: int) -> Iterator[tuple[int, str]]:
    """(process, its state) of every process in a session."""
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[3]) == leader:
                yield int(entry.name), fields[0]


def _sample(leader: int, temporary: Path, out: Path, part_size: int, seconds: float) -> Sample | None:
    memory: dict[int, int] = {}
    files = zombies = ffmpeg = 0
    for pid, state in _session(leader):
        zombies += state == "Z" and pid != leader  # the first one is waited for by this script
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            memory[pid] = 1024 * int(rollup.split("\nPss:")[1].split()[0])
            files += len(os.listdir(f"/proc/{pid}/fd"))
            ffmpeg += Path(f"/proc/{pid}/comm").read_text().startswith(("ffmpeg", "ffprobe"))
        except (OSError, IndexError):
            continue
    if leader not in memory:
        return None
    parts = out.with_name(f"{out.name}.parts")
    main = memory.pop(leader)
    return Sample(
        round(seconds, 1),
        part_size * sum(1 for _ in parts.glob("audio--*/*.npz")),
        main,
        sum(memory.values()),
        1 + len(memory) + zombies,
        zombies,
        ffmpeg,
        files,
        _size(temporary),
        _size(parts),
    )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # renamed meanwhile
            continue
    return total


def table(samples: list[Sample], count: int) -> str:
    """Markdown: the largest of every number in each tenth of the progress, and while the store is written."""
    lines = [
        "| utterances done | seconds | main MB | workers MB | processes | zombies | ffmpeg | open files | TMPDIR kB |"
        " parts MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for tenth in range(TENTHS + 1):
        some = [one for one in samples if min(TENTHS, one.done * TENTHS // count) == tenth]
        if not some:
            continue
        most = {name: max(getattr(one, name) for one in some) for name in asdict(some[0])}
        lines.append(
            f"| {min(most['done'], count):,} | {most['seconds']:.0f} | {most['main'] / 1e6:.0f} |"
            f" {most['workers'] / 1e6:.0f} | {most['processes']} | {most['zombies']} | {most['ffmpeg']} |"
            f" {most['files']} | {most['temporary'] / 1e3:.0f} | {most['parts'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=20_000)
    parser.add_argument("--visual", action="store_true")
    parser.add_argument("--part-size", type=int, default=32)
    parser.add_argument("--json", type=Path, help="JSON Lines of all samples are added to this file")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between samples")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_corpus(folder, arguments.utterances)
        encoder = make_text_encoder(folder / "encoder", TEXTS * 3)
        out = folder / "s.h5"
        command = [sys.executable, "-m", "erc_toolkit", "extract", "manifest", str(manifest), "--out", str(out)]
        command += ["--modalities", "text,audio,visual" if arguments.visual else "text,audio"]
        command += ["--text-model", str(encoder), "--audio-set", "eGeMAPSv02", "--workers", "2"]
        command += ["--part-size", str(arguments.part_size)]
        if arguments.visual:
            command += ["--visual-model", "denseface", "--visual-weights", "random", "--face-detector", "haar"]
        samples = []
        for sample in watch(command, folder, out, arguments.part_size, arguments.every):
            samples.append(sample)
            if arguments.json:  # as it goes, so that a run that is ended leaves what it found
                with open(arguments.json, "a") as file:
                    file.write(json.dumps(asdict(sample)) + "\n")
        with FeatureStore.open(out) as store:
            present = {feature: int(store.feature(feature).present().sum()) for feature in store.feature_names()}
        print(f"{arguments.utterances:,} utterances, present: {present}; {samples[-1].seconds:.0f} s\n")
        print(table(samples, arguments.utterances))
        left = sorted(path.name for path in (folder / "tmp").iterdir())
        print(f"\nleft in TMPDIR: {', '.join(left) or 'nothing'}")


if __name__ == "__main__":
    main()
