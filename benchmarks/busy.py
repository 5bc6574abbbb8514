"""A training beside others on the same cores, by how long PyTorch's threads look for work before they sleep.

    python benchmarks/busy.py [--spins 300000 20000 1000] [--at-once 1 2] [--rounds 2]

Seconds of one training pass of AMB-DSGDN on features of IEMOCAP's shape (16 dialogues a batch), of a process alone and
of several at once, each with all cores: medians of all processes and rounds. GNU OpenMP's own number is 300,000; the
command line sets 20,000 (GOMP_SPINCOUNT), unless the user has set that or OMP_WAIT_POLICY.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SPINS = "GOMP_SPINCOUNT"


def one_process(rounds: int) -> None:
    """Prints the seconds of each pass, after one that is not counted."""
    import torch

    from erc_toolkit.toolkit.store import FeatureStore
    from train import our_passes, plan_and_data, write_store

    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        write_store(Path(scratch) / "store.h5", "iemocap")
        with FeatureStore.open(Path(scratch) / "store.h5") as store:
            training, _ = our_passes(*plan_and_data(store, "iemocap", 16, device), device)
            training()
            for _ in range(rounds):
                began = time.perf_counter()
                training()
                print(time.perf_counter() - began, flush=True)


def at_once(number: int, spins: str, rounds: int) -> float:
    """The median seconds of a pass of so many processes at once."""
    command = [sys.executable, __file__, "--one", "--rounds", str(rounds)]
    environ = {**os.environ, _SPINS: spins}
    running = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process failed")
    return statistics.median(float(line) for text in printed for line in text.split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", nargs="+", default=["300000", "20000", "1000"])
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one_process(given.rounds)
        return
    print(f"{'spins':>8} " + " ".join(f"{f'{number} at once':>12}" for number in given.at_once))
    for spins in given.spins:
        seconds = [at_once(number, spins, given.rounds) for number in given.at_once]
        print(f"{spins:>8} " + " ".join(f"{one:12.1f}" for one in seconds), flush=True)


if __name__ == "__main__":
    main()
