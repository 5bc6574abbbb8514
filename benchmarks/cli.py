"""Time of `--help`, relative to starting Python alone: python benchmarks/cli.py [rounds]."""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "erc-toolkit --help": [sys.executable, "-m", "erc_toolkit", "--help"],
    "erc-toolkit extract --help": [sys.executable, "-m", "erc_toolkit", "extract", "--help"],
    "erc-toolkit train --help": [sys.executable, "-m", "erc_toolkit", "train", "--help"],
}


def main(rounds: int = 15) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):  # in turn, so that load affects all alike; the first round warms the file cache
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - began)
    base = statistics.median(times["python -c pass"][1:])
    for name, seconds in times.items():
        median = statistics.median(seconds[1:])
        print(f"{name:28} {median * 1000:6.0f} ms   {median / base:4.1f} x python alone")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
