"""A long extraction holds on to nothing: `benchmarks/endurance.py` at a few hundred utterances."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "endurance.py"
SLACK = 40e6  # bytes of memory: what an allocator may keep; 200 utterances' features, decoded or encoded, are less

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")]


def test_memory_files_and_processes_stay_the_same(tmp_path):
    arguments = ["--utterances", "400", "--part-size", "8", "--every", "0.2", "--json", tmp_path / "samples.jsonl"]
    done = subprocess.run([sys.executable, SCRIPT, *arguments, "--visual"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # also if a process is left behind
    assert "left in TMPDIR: nothing" in done.stdout, done.stdout
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    # From the first parts on, when all libraries are loaded, until the store is assembled.
    first = [one for one in samples if 40 <= one["done"] < 200]
    second = [one for one in samples if 200 <= one["done"] < 400]
    assert first and second
    for name in ("main", "workers"):
        assert peak(second, name) <= peak(first, name) + SLACK, done.stdout
    # Workers' pipes come and go with tasks, by a few.
    assert peak(second, "files") <= peak(first, "files") + 8, done.stdout
    assert peak(second, "processes") <= peak(first, "processes"), done.stdout
    assert peak(samples, "zombies") <= 1, done.stdout  # one that has just ended may be seen before it is waited for
    assert peak(samples, "ffmpeg") == peak(samples, "temporary") == 0, done.stdout


def peak(samples: list[dict], name: str) -> int:
    return max(one[name] for one in samples)
