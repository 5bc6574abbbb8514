"""How much memory there is, and bounds on what a process takes of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GROUPS = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that can still be taken before the machine, or this process's control group, has none left."""
    import psutil

    return min([psutil.virtual_memory().available, *_left_in_groups()])


def bound(extra: int) -> bool:
    """Limits this process to `extra` bytes of address space beyond what it has now: more is a `MemoryError`.

    Returns:
        Whether the system enforces such a limit; macOS and Windows do not.
    """
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = used + extra if hard == resource.RLIM_INFINITY else min(hard, used + extra)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, AttributeError, OSError, ValueError):
        return False
    return True


class PeakMemory:
    """The most memory in use at once since this was made.

    Args:
        device: of PyTorch. On CUDA it is the memory that tensors took there; elsewhere that of this process, with its
            libraries.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._counts = device, True
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        else:
            try:  # 5: the high-water mark is set to what is resident now
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            except OSError:
                self._counts = False

    def bytes(self) -> int | None:
        """The bytes; None where the system does not tell."""
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        if not self._counts:
            return None
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
            return 1024 * int(status.partition("VmHWM:")[2].split()[0])
        except (OSError, ValueError, IndexError):
            return None


def die_first() -> None:
    """When memory runs out, the kernel (Linux) should rather end this process than others."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _left_in_groups() -> list[int]:
    """What the limits of the control groups around this process leave, both of version 2 and of version 1."""
    left = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                root = _GROUPS / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            inner = root / path.lstrip("/")
            left += [
                bytes_
                for folder in (inner, *inner.parents)
                if folder.is_relative_to(root) and (bytes_ := _left_in(folder, *names)) is not None
            ]
    return left


def _left_in(folder: Path, most: str, used: str, cache: str) -> int | None:
    try:
        limit, taken = int((folder / most).read_text()), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - taken + int(stat.get(cache, 0)))  # files that are read once are dropped first
    except (OSError, ValueError):  # no such group, or "max"
        return None
