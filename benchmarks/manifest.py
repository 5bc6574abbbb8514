"""Reading, checking and writing a manifest of a million lines: python benchmarks/manifest.py [--lines 1000000].

The lines are as of a corpus of long recordings: ids, speakers, texts of 3 to 18 words, labels, splits, spans in 2,000
files. Each step is a process of its own, whose processor time and peak memory are shown; the time on the clock depends
on what else the machine does. The baseline is Python's `json.loads` of every line, without any check or an object kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LABELS = ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"]
SPEAKERS = ["Monica", "Ross", "Joey", "Chandler", "Phœbe", "Rachel"]
WORDS = "the of and you that was for are with his they this have from one had word but what some café we can".split()
FILES = 2000

_JSON = "import json, sys\nfor line in open(sys.argv[1], encoding='utf-8'): json.loads(line)"
_LOAD = (
    "import sys; from pathlib import Path; from erc_toolkit import load_manifest; m = load_manifest(Path(sys.argv[1]))"
)
_STEPS = {
    "json.loads of every line": [sys.executable, "-c", _JSON, "FILE"],
    "load_manifest": [sys.executable, "-c", _LOAD, "FILE"],
    "load_manifest, then dialogues() and write_manifest": [
        sys.executable,
        "-c",
        f"{_LOAD}\nfrom erc_toolkit.toolkit.manifest import write_manifest\n"
        "assert sum(len(us) for _, us in m.dialogues()) == len(m.utterances)\n"
        "write_manifest(m, Path(sys.argv[1] + '.copy.jsonl'))",
        "FILE",
    ],
    "manifest stats": [sys.executable, "-m", "erc_toolkit", "manifest", "stats", "FILE"],
    "manifest validate": [sys.executable, "-m", "erc_toolkit", "manifest", "validate", "FILE"],
}


def write(path: Path, count: int) -> None:
    """Writes a manifest of `count` utterances, and its media files, which are not decoded here."""
    rng = random.Random(0)
    (path.parent / "clips").mkdir()
    for i in range(FILES):
        (path.parent / f"clips/episode{i:04d}.mp4").write_bytes(b"not decoded")
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps({"erc_manifest": 1, "corpus": "large", "labels": LABELS}) + "\n")
        done = dialogue = 0
        while done < count:
            split, end = rng.choice(["train"] * 8 + ["val", "test"]), 0.0
            for position in range(min(rng.randint(5, 25), count - done)):
                start, end = end, round(end + rng.uniform(0.5, 6), 3)
                row = {
                    "id": f"dia{dialogue}_utt{position}",
                    "dialogue": f"dia{dialogue}",
                    "position": position,
                    "speaker": rng.choice(SPEAKERS),
                    "text": " ".join(rng.choices(WORDS, k=rng.randint(3, 18))).capitalize() + ".",
                    "label": rng.choice(LABELS),
                    "split": split,
                    "media": f"clips/episode{dialogue % FILES:04d}.mp4",
                    "start": start,
                    "end": end,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                done += 1
            dialogue += 1


def measured(command: list[str]) -> tuple[float, float, int]:
    """Seconds on the clock, seconds of the processor and peak bytes of a process."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    arguments = parser.parse_args()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{arguments.lines:,} lines; a child process begins with at most {own} MB, those of this one\n")
    print("| step | seconds | of the processor | relative | peak MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.jsonl"
        write(path, arguments.lines)
        baseline = 0.0
        for name, words in _STEPS.items():
            seconds, of_processor, peak = measured([str(path) if word == "FILE" else word for word in words])
            baseline = baseline or of_processor
            print(f"| {name} | {seconds:.1f} | {of_processor:.1f} | {of_processor / baseline:.1f} | {peak / 1e6:.0f} |")


if __name__ == "__main__":
    main()
