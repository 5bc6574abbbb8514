"""The devices that `--device` accepts, their names, copies to them, and the precision of their arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from .errors import UserError
from .words import counted

if TYPE_CHECKING:
    import torch  # imported inside functions, so that the command line can check a name without it

CHOICES = "auto, cpu, cuda, cuda:N or mps"
METAVAR = "auto|cpu|cuda|cuda:N|mps"
_NAME = re.compile(r"auto|cpu|mps|cuda(?::(?:0|[1-9][0-9]{0,3}))?", re.ASCII)


def is_device_name(name: str) -> bool:
    """Whether `name` is auto, cpu, cuda, cuda:N or mps; the device itself need not exist."""
    return _NAME.fullmatch(name) is not None


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; auto selects CUDA if available, cuda PyTorch's current CUDA device.

    Apple's GPU ("mps") is never selected by auto: nobody has compared its numbers with a CPU's yet.

    Raises:
        UserError: `name` is not a device name, or this machine does not have that device.
    """
    import torch

    count, apple = _found()
    if not is_device_name(name):
        raise UserError(f"--device {name!r}: unknown; use {CHOICES} ({devices_here()})")
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if (device.type == "cuda" and (device.index or 0) >= count) or (device.type == "mps" and not apple):
        raise UserError(f"--device {name}: not available, {devices_here()}; use {_available(count, apple)}")
    return device


def device_name(device: torch.device) -> str:
    """The device as it is printed and recorded, e.g. "cpu (8 threads)"."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({counted(torch.get_num_threads(), 'thread')})"
    return str(device)


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device, copied through pinned memory, so that the host need not wait until the device has it.

    A copy from ordinary host memory would first wait for everything that the device has still to do.
    """
    if x.device.type == "cpu" and device.type not in ("cpu", "mps"):  # an Apple GPU shares the host's memory
        x = x.pin_memory()
    return x.to(device, non_blocking=device.type != "cpu")


WITHOUT_FLOAT64 = {"mps"}  # types of devices


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64; Apple's GPUs do not."""
    return device.type not in WITHOUT_FLOAT64


def synchronize(device: torch.device) -> None:
    """Waits until a device has done its work, for timings."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def fork_generators(device: torch.device) -> Iterator[None]:
    """A context after which the random number generators of the host and of a device are as they were before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        if device.type == "cpu":
            yield
            return
        module = torch.get_device_module(device)
        state = module.get_rng_state(device)
        try:
            yield
        finally:
            module.set_rng_state(state, device)


PRECISIONS = ("float32", "tf32", "bfloat16")  # of training; extraction has float16 as well


def check_precision(name: str, device: torch.device, where: str) -> None:
    """Raises a UserError, which begins with `where`, if a device does not have a precision."""
    if name == "auto":
        raise UserError(f"{where}: auto must be replaced by a precision before features are computed")
    if name == "tf32" and device.type != "cuda":
        raise UserError(f"{where}: tf32 is an arithmetic of CUDA devices; on {device.type} use float32 or bfloat16")


def matrix_precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """The types of matrix products in a forward pass, as a context.

    With "bfloat16" they are in bfloat16 (torch.autocast), and weights, softmax, norms and loss in float32; any other
    precision leaves all in float32.
    """
    import torch

    return torch.autocast(device.type, torch.bfloat16) if name == "bfloat16" else nullcontext()


@contextmanager
def products_in(name: str, device: torch.device) -> Iterator[None]:
    """A context in which float32 matrix products, convolutions and recurrent layers are float32, unless it is "tf32".

    PyTorch rounds the inputs of CUDA convolutions and recurrent layers to TF32's 10 bits by default.
    """
    import torch

    if device.type != "cuda":
        yield
        return
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            setattr(place, "allow_tf32", name == "tf32")  # noqa: B010  # a property that type checkers do not see
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            setattr(place, "allow_tf32", allowed)  # noqa: B010


@contextmanager
def inference(name: str, device: torch.device) -> Iterator[None]:
    """A context for forward passes without gradients in a precision of `PRECISIONS`."""
    import torch

    with torch.inference_mode(), products_in(name, device), matrix_precision(name, device):
        yield


def devices_here() -> str:
    """The devices that PyTorch sees on this machine, in words."""
    count, apple = _found()
    if not count:
        return "PyTorch sees no CUDA device here" + (", but mps" if apple else "")
    return f"PyTorch sees {counted(count, 'CUDA device')} here: {_numbers(count)}"


def to_host(x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Starts to copy a tensor to the host; calling the result waits for the copy and returns it.

    It waits for what the device was given before this call, not for what it is given afterwards. The copy is in pinned
    memory.
    """
    import torch

    # Apple's GPUs copy into ordinary memory, and PyTorch's copies from them that do not block are not always complete
    # when an event after them is.
    if x.device.type in ("cpu", "mps"):
        return x.cpu
    device, copy = x.device, x.to("cpu", non_blocking=True)
    copied = torch.Event(device=device)
    copied.record(torch.accelerator.current_stream(device))  # by default it would be the current device's

    def wait() -> torch.Tensor:
        try:
            copied.synchronize()
        except RuntimeError:  # not all kinds of devices can wait for an event; one that has failed fails again
            synchronize(device)
        return copy

    return wait


class Memory(NamedTuple):
    """Name of a device's model, and bytes of its memory: free, including what PyTorch keeps for reuse, and total."""

    device: str
    free: int
    total: int


def device_memory(device: torch.device) -> Memory | None:
    """The memory of a device now, or None if PyTorch does not report it, as for a CPU or an Apple GPU."""
    import torch

    module = torch.get_device_module(device)
    try:
        free, total = module.mem_get_info(device)
        kept = module.memory_reserved(device) - module.memory_allocated(device)
        return Memory(module.get_device_name(device), free + kept, total)
    except (AttributeError, NotImplementedError):
        return None


def empty_cache(device: torch.device) -> None:
    """Returns the memory that PyTorch keeps for reuse to the device."""
    import torch

    getattr(torch.get_device_module(device), "empty_cache", lambda: None)()


def _found() -> tuple[int, bool]:
    """The number of CUDA devices, and whether there is an Apple GPU."""
    import torch

    return (torch.cuda.device_count() if torch.cuda.is_available() else 0), torch.backends.mps.is_available()


def _available(count: int, apple: bool) -> str:
    names = ["auto", "cpu", *(["cuda", _numbers(count)] if count else []), *(["mps"] if apple else [])]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _numbers(count: int) -> str:
    return "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
