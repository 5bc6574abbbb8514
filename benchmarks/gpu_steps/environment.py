"""The device, the machine and the versions of a benchmark, as JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from erc_toolkit.toolkit.base.cores import core_count
from erc_toolkit.toolkit.base.device import pick_device
from erc_toolkit.toolkit.base.errors import UserError

PACKAGES = ("torch", "triton", "torchvision", "torchaudio", "transformers", "numpy", "scikit-learn", "opensmile")


def show(name: str) -> None:
    """Prints the environment in one line.

    Raises:
        SystemExit: there is no such device, or no CUDA device and none was named.
    """
    try:
        device = pick_device(name)
    except UserError as error:
        sys.exit(str(error))
    if device.type == "cpu" and name != "cpu":
        sys.exit("no CUDA device here; --device cpu --small checks this script on the CPU")
    if device.type not in ("cpu", "cuda"):
        sys.exit(f"--device {name}: only cpu and CUDA devices are measured")
    print(json.dumps(describe(device)))


def describe(device: torch.device) -> dict[str, Any]:
    """Everything that a reader of the numbers needs to know of the machine."""
    found: dict[str, Any] = {
        "device": str(device),
        "device name": processor(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "processor": processor(),
        "cores": core_count(),
        "AVX-512": "avx512f" in cpuinfo("flags").split(),
        "torch threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
        "git revision": first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
    }
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(index)
        found |= {
            "device": f"cuda:{index}",
            "device name": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory MiB": properties.total_memory // 2**20,
            "compute capability": f"{properties.major}.{properties.minor}",
            "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "CUDA runtime": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }
    return found


def first_line(*command: str) -> str:
    """The first line that a program prints; "unknown" if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return "unknown"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(done.stdout.strip().splitlines()), "unknown")


def installed(package: str) -> str:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name."""
    return cpuinfo("model name") or platform.processor() or platform.machine() or f"{os.name} machine"


def cpuinfo(key: str) -> str:
    """An entry of the first processor in /proc/cpuinfo; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")
