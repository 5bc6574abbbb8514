"""Everything that the toolkit promises of a GPU, measured in one command, without a network, in less than nine minutes.

    python benchmarks/gpu.py --out DIR [--device auto] [--small] [--only agreement epochs ...]

Every step is a process with its own time limit, and writes each result to DIR/STEP.jsonl as soon as it has it. After
every step, DIR/gpu.md (tables) and DIR/gpu.json (everything) are written anew, so that an error or a limit loses only
what was not yet measured. With `--device cpu --small` all steps run in small sizes, as a check of this script.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_steps.lines import AGAIN, Row, read_lines
from gpu_steps.report import markdown, targets

# Seconds of each step, the most valuable first. What a step leaves of its time, the later ones may use.
LIMITS = {
    "agreement": 75,
    "epochs": 150,
    "encoders": 115,
    "long_dialogue": 25,
    "resume": 60,
    "extraction": 45,
    "compiled": 65,
}
TOTAL = 535
SMALL_LIMIT = 300  # of each step, on whatever machine runs the tests
_GRACE = 2.0  # seconds that a step which ends by itself is given after its limit


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--device", default="auto", help="auto (CUDA), cpu, cuda or cuda:N")
    parser.add_argument("--small", action="store_true", help="smallest sizes: checks the script, measures nothing")
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="STEP", help="some steps")
    parser.add_argument("--limit", action="append", default=[], metavar="STEP=S", help="another time limit of a step")
    for internal in ("--step", "--file", "--scratch", "--seconds"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "environment":
        importlib.import_module("gpu_steps.environment").show(options.device)
    elif options.step:
        one_step(options)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the step's process ends too
        everything(options, limits_of(parser, options))


def limits_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step."""
    limits = {name: float(SMALL_LIMIT if options.small else seconds) for name, seconds in LIMITS.items()}
    for given in options.limit:
        name, _, seconds = given.partition("=")
        try:
            limits[name] = {**dict.fromkeys(limits, float(seconds))}[name]
        except (KeyError, ValueError):
            parser.error(f"--limit {given}: write STEP=SECONDS, with a step of {', '.join(LIMITS)}")
    return limits


def one_step(options: argparse.Namespace) -> None:
    """Runs a step in this process."""
    import torch
    from gpu_steps.common import Job

    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    job = Job(Path(options.file), device, options.small, float(options.seconds), Path(options.scratch))
    importlib.import_module(f"gpu_steps.{options.step}").run(job)


def everything(options: argparse.Namespace, limits: dict[str, float]) -> None:
    """Runs all steps and writes the tables after each."""
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    environment = environment_of(options.device)
    for old in (options.out / f"{name}.{kind}" for name in LIMITS for kind in ("jsonl", "log")):
        old.unlink(missing_ok=True)  # a step looks up what others have measured
    given = {"device": environment["device"], "small": options.small, "only": options.only, "limits": limits}
    report: Row = {"environment": environment, "options": given, "steps": {}, "targets": []}
    order = [name for name in LIMITS if name in options.only]
    changed = {given.partition("=")[0] for given in options.limit}
    for name in order:
        if not options.small and name not in changed:
            later = sum(limits[other] for other in order[order.index(name) + 1 :])
            limits[name] = max(limits[name], TOTAL - (time.monotonic() - began) - later)
        print(f"{name}: at most {limits[name]:.0f} s", flush=True)
        step = run_step(name, options, environment["device"], limits[name])
        report["steps"][name] = step
        print(f"  {step['status']} in {step['seconds']:.1f} s{': ' + step['reason'] if step['reason'] else ''}")
        report["seconds"] = time.monotonic() - began
        report["targets"] = targets(report)
        write(options.out / "gpu.json", json.dumps(report, indent=1))
        write(options.out / "gpu.md", markdown(report))
    print(options.out / "gpu.md")


def environment_of(device: str) -> Row:
    """Device and versions, found out by another process, as this one need not import torch.

    Raises:
        SystemExit: there is no such device.
    """
    command = [sys.executable, __file__, "--out", ".", "--step", "environment", "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        sys.exit((done.stderr.strip().splitlines() or ["the environment cannot be described"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_step(name: str, options: argparse.Namespace, device: str, limit: float) -> Row:
    """Runs a step in its own process group, again if its device became unusable, and collects what it wrote."""
    began = time.monotonic()
    file, log = options.out / f"{name}.jsonl", options.out / f"{name}.log"
    status, reason, begun = "done", "", -1
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-", ignore_cleanup_errors=True) as scratch:
        while True:
            left = limit - (time.monotonic() - began)
            code = in_group(command_of(name, options, device, left, file, scratch), log, left + _GRACE, scratch)
            if code == 0:
                break
            if code is None:
                status, reason = "stopped", f"stopped after {limit:.0f} s"
                break
            lines = sum(map(len, read_lines(file)))  # results, and what was being measured
            if lines <= begun or (code > 0 and code != AGAIN) or limit - (time.monotonic() - began) < 10:
                status, reason = "failed", f"exit status {code}: {last_line(log)}"
                break
            begun = lines  # it got further: the rest is measured by a new process
    rows = results_of(file, reason)
    if status == "done" and rows and all(row["status"] == "skipped" for row in rows):
        status, reason = "skipped", "; ".join(sorted({row["reason"] for row in rows}))
    return {"status": status, "reason": reason, "seconds": time.monotonic() - began, "limit": limit, "results": rows}


def command_of(name: str, options: argparse.Namespace, device: str, left: float, file: Path, scratch: str) -> list[str]:
    """The command of a step."""
    words = ["--out", options.out, "--device", device, "--step", name, "--seconds", f"{left:.2f}", "--file", file]
    small = ["--small"] if options.small else []
    return [sys.executable, __file__, *map(str, words), "--scratch", scratch, *small]


def in_group(command: list[str], log: Path, seconds: float, scratch: str) -> int | None:
    """Runs a command in its own process group, of which nothing is left afterwards; None if it took too long."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    environment["XDG_CACHE_HOME"] = scratch  # batches that fitted into little memory are not remembered for the user
    if "--small" in command:
        environment.setdefault("OMP_NUM_THREADS", "1")  # faster for small sizes, the more so on a busy machine
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=environment)
        try:
            return process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            return None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all of them have ended
            process.wait()


def results_of(file: Path, reason: str) -> list[Row]:
    """A step's results; what had begun when it was stopped or failed has that as its reason."""
    rows, lost = read_lines(file)
    return rows + [{"table": t, "key": k, "status": "failed", "reason": reason or "no result"} for t, k in lost]


def last_line(log: Path) -> str:
    """The last line of a step's log that is not empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")


def write(path: Path, text: str) -> None:
    """Writes a file that is complete at every moment."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
