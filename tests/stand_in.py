"""A device that is not there: numbers on the CPU, marked as a device's, to see what a GPU would refuse or wait for.

Tensors of the device "standin" wrap a tensor of the host. An operation that mixes them with the host's raises `Mix`,
and whatever would make the host wait for a GPU is written down, with the line of the toolkit that asked for it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import erc_toolkit
from erc_toolkit.toolkit.base.device import WITHOUT_FLOAT64

aten = torch.ops.aten
HOME = str(Path(erc_toolkit.__file__).parent)


class _Module(_DummyBackendModule):
    """What PyTorch asks of a kind of device."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def get_rng_state(self, device):
        """Its random numbers are the host's."""
        return torch.get_rng_state()

    def set_rng_state(self, state, device):
        """As above."""


_setup_privateuseone_for_python_backend("standin", _Module())
DEVICE = torch.device("standin:0")
HOST = torch.device("cpu")

# The number of results depends on the data, or the result is a number of the host.
WAITING = {
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.unique_dim_consecutive,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class Mix(AssertionError):
    """An operation whose tensors are on two devices, or of a type that the device does not have."""


@dataclass(frozen=True)
class Wait:
    """An operation for which the host would wait, and the line of the toolkit that it comes from."""

    operation: str
    line: str


class DeviceTensor(torch.Tensor):
    """A tensor of the stand-in; `inner` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        with torch.inference_mode(False):  # a view of a parameter is an ordinary tensor in inference mode, too
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=DEVICE,
            )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"DeviceTensor({self.inner})"

    def tolist(self):
        """PyTorch has it for its own tensors alone."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _NewTensors(TorchFunctionMode):
    """`torch.tensor(..., device=...)`, which no dispatch mode sees, as a tensor of the host that is copied."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and device is not None:
            if torch.device(device).type == DEVICE.type:
                del kwargs["device"]
                return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class StandIn(TorchDispatchMode):
    """While it is active, there is the device "standin".

    Args:
        float64: whether the device has float64; Apple's GPUs do not.

    Attributes:
        waits: what the host would have waited for, in order.
        copies: copies between host and device, in order, whether the host would have waited for them or not.
    """

    active: StandIn | None = None

    def __init__(self, float64: bool = True) -> None:
        super().__init__()
        self.float64, self.waits, self.copies = float64, [], []
        self._depth, self._new = 0, _NewTensors()
        self._pinned: dict[int, Tensor] = {}  # by address; kept alive, so that no other tensor gets the address

    def __enter__(self) -> StandIn:
        assert StandIn.active in (None, self)
        StandIn.active, self._depth = self, self._depth + 1
        if self._depth == 1:
            self._new.__enter__()
            if not self.float64:
                WITHOUT_FLOAT64.add(DEVICE.type)
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        self._depth -= 1
        if not self._depth:
            StandIn.active = None
            self._new.__exit__(*exception)
            WITHOUT_FLOAT64.discard(DEVICE.type)
        super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @contextmanager
    def counting(self) -> Iterator[list[Wait]]:
        """The waits of a block."""
        before = len(self.waits)
        found: list[Wait] = []
        yield found
        found += self.waits[before:]

    def pin(self, x: Tensor) -> Tensor:
        self._pinned[x.untyped_storage().data_ptr()] = x
        return x

    def is_pinned(self, x: Tensor) -> bool:
        return x.untyped_storage().data_ptr() in self._pinned

    def note(self, func, waits: bool = True, copies: bool = False) -> None:
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(HOME) and "/tests/" not in f.filename]
        line = f"{Path(frames[-1].filename).relative_to(HOME)}:{frames[-1].lineno}" if frames else "backward"
        found = Wait(func.overloadpacket.__name__, line)
        self.waits += [found] * waits
        self.copies += [found] * copies


def host(x: Tensor) -> Tensor:
    """The numbers of a tensor of the stand-in."""
    return x.inner if isinstance(x, DeviceTensor) else x


def _run(func, args, kwargs):
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    here = StandIn.active
    if here is None:
        raise AssertionError(f"{func} after the end of the stand-in")
    target = kwargs.get("device")
    target = torch.device(target) if target is not None else None
    packet = func.overloadpacket
    if packet in (aten._pin_memory, aten.pin_memory):
        return here.pin(tensors[0].clone())
    if packet is aten.is_pinned:
        return here.is_pinned(tensors[0])
    on_device = any(isinstance(x, DeviceTensor) for x in tensors)
    if torch.is_inference_mode_enabled() and func._can_decompose():  # elsewhere this happened before
        with here:
            return func.decompose(*args, **kwargs)
    if packet in (aten._to_copy, aten.copy_):
        _note_copy(here, func, packet, tensors, target, args, kwargs)
    elif on_device:
        _check(here, func, packet, tensors, args, kwargs)
    inner_args, inner_kwargs = tree_map_only(DeviceTensor, host, (args, kwargs))
    if target is not None:
        inner_kwargs["device"] = HOST
    out = EMULATED.get(packet, func)(*inner_args, **inner_kwargs)
    if packet is aten._local_scalar_dense:
        return out
    to_device = target.type == DEVICE.type if target is not None else on_device
    if packet is aten.copy_:
        return args[0]
    if not to_device:
        if packet is aten._to_copy and on_device and kwargs.get("non_blocking"):
            here.pin(out)  # PyTorch copies to pinned memory then
        return out
    out = tree_map_only(Tensor, DeviceTensor, out)
    for x in tree_flatten(out)[0]:
        if isinstance(x, Tensor) and x.dtype == torch.float64 and not here.float64:
            raise Mix(f"{func}: the device has no float64")
    if not on_device:
        return out
    if torch.is_inference_mode_enabled():  # its tensors have no versions to correct
        returned = func._schema.returns[0].alias_info if func._schema.returns else None
        return args[0] if returned is not None and returned.is_write else out
    return return_and_correct_aliasing(func, args, kwargs, out)


def _note_copy(here, func, packet, tensors, target, args, kwargs) -> None:
    if packet is aten.copy_:
        to, of = tensors
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        target = to.device
    else:
        (of,), to, non_blocking = tensors, None, kwargs.get("non_blocking", False)
        target = target or of.device
    if target.type == of.device.type:
        return
    if target.type == DEVICE.type:
        waits = not here.is_pinned(of)
    else:
        waits = not non_blocking or (to is not None and not here.is_pinned(to))
    if of.numel():
        here.note(func, waits, copies=True)


def _check(here, func, packet, tensors, args, kwargs) -> None:
    strangers = [x for x in tensors if not isinstance(x, DeviceTensor) and x.ndim]
    if packet in INDEXING:
        indices = [x for x in args[1] if x is not None]
        strangers = [x for x in strangers if not any(x is index for index in indices)]
        # An index of the host is copied; a mask is turned into indices, except to fill with one value.
        if any(not isinstance(x, DeviceTensor) for x in indices) or (
            any(x.dtype in (torch.bool, torch.uint8) for x in indices)
            and not (packet is not aten.index and len(args) > 2 and args[2].numel() == 1)
        ):
            here.note(func)
    if strangers:
        shapes = ", ".join(f"{x.device.type} {x.dtype} {tuple(x.shape)}" for x in tensors)
        raise Mix(f"{func}: {shapes}")
    if packet in WAITING or (
        func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None and len(args) < 2
    ):
        here.note(func)


def _lstm(input_gates, hidden_gates, cx, input_bias=None, hidden_bias=None):
    gates = sum((x for x in (hidden_gates, input_bias, hidden_bias) if x is not None), input_gates)
    i, f, g, o = gates.chunk(4, 1)
    cy = f.sigmoid() * cx + i.sigmoid() * g.tanh()
    return o.sigmoid() * cy.tanh(), cy, gates


def _lstm_backward(grad_hy, grad_cy, cx, cy, gates, has_bias):
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o, y = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid(), cy.tanh()
    grad_hy, grad_cy = (torch.zeros_like(cx) if x is None else x for x in (grad_hy, grad_cy))
    c = grad_cy + grad_hy * o * (1 - y**2)
    found = torch.cat([c * g * i * (1 - i), c * cx * f * (1 - f), c * i * (1 - g**2), grad_hy * y * o * (1 - o)], 1)
    return found, c * f, found.sum(0) if has_bias else None


def _gru(input_gates, hidden_gates, hx, input_bias=None, hidden_bias=None):
    input_gates = input_gates if input_bias is None else input_gates + input_bias
    hidden_gates = hidden_gates if hidden_bias is None else hidden_gates + hidden_bias
    (ir, iz, i), (hr, hz, h) = input_gates.chunk(3, 1), hidden_gates.chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (i + r * h).tanh()
    return n + z * (hx - n), torch.cat([r, z, n, h, hx], 1)


def _gru_backward(grad, workspace, has_bias):
    r, z, n, h, hx = workspace.chunk(5, 1)
    n_ = grad * (1 - z) * (1 - n**2)
    r_, z_ = n_ * h * r * (1 - r), grad * (hx - n) * z * (1 - z)
    of_input, of_hidden = torch.cat([r_, z_, n_], 1), torch.cat([r_, z_, n_ * r], 1)
    sums = (of_input.sum(0), of_hidden.sum(0)) if has_bias else (None, None)
    return of_input, of_hidden, grad * z, *sums


# Kernels of GPUs that have no counterpart on the CPU.
EMULATED = {
    aten._thnn_fused_lstm_cell: _lstm,
    aten._thnn_fused_lstm_cell_backward_impl: _lstm_backward,
    aten._thnn_fused_gru_cell: _gru,
    aten._thnn_fused_gru_cell_backward: _gru_backward,
}
