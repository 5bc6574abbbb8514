"""A DenseNet in OpenVINO, built from the module in memory layer by layer: nothing is exported, fetched or read.

OpenVINO's own converter is not used: it traces a DenseNet for 7 to 14 seconds, where this takes a tenth of one.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.densenet import _DenseBlock, _DenseLayer, _Transition  # the blocks have no public names

from ....toolkit.base.cores import core_count

# Images in a batch. An image takes one thread with AVX2, in batches of 8 and of more: denseface 10.6 and 12.0 ms (32),
# densenet121 71 and 76 ms (16).
OPENVINO_BATCH = 8
# Batches that are computed at once, at most. Each has memory of its own for what is between the layers.
_MOST_STREAMS = 16


class OpenVinoDenseNet:
    """The features of a DenseNet after ReLU and global average pooling. May be called by several threads at once.

    A call uses as many threads as PyTorch would in the thread that it comes from.

    Args:
        features: the DenseNet's `features`, float32, on the CPU, in evaluation mode.
        channels, side: of an image.

    Raises:
        ValueError: it has a layer that is not known here.
    """

    def __init__(self, features: nn.Module, channels: int, side: int):
        import openvino

        self._core = openvino.Core()
        self._model: Any = _model(features, channels, side)
        self._compiled: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._here = threading.local()

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (n, channels, side, side), normalised, to (n, dim)."""
        found = self._request(torch.get_num_threads()).infer({0: images.contiguous().numpy()})
        return torch.from_numpy(found[0].copy())  # the request's own memory is used again

    def _request(self, threads: int) -> Any:
        """The calling thread's own request for so many threads."""
        requests: dict[Any, Any] = self._here.__dict__
        if threads not in requests:
            requests[threads] = self._compile(threads).create_infer_request()
        return requests[threads]

    def _compile(self, threads: int) -> Any:
        with self._lock:
            if threads not in self._compiled:
                streams = min(max(1, core_count() // threads), _MOST_STREAMS)
                self._compiled[threads] = self._core.compile_model(
                    self._model,
                    "CPU",
                    {
                        # Some processors would compute in bfloat16 by default.
                        "INFERENCE_PRECISION_HINT": "f32",
                        "NUM_STREAMS": streams,
                        "INFERENCE_NUM_THREADS": streams * threads,
                        # The cores are shared with the run's other work.
                        "ENABLE_CPU_PINNING": False,
                    },
                )
            return self._compiled[threads]


def _model(features: nn.Module, channels: int, side: int) -> Any:
    """The network as a model of OpenVINO, for any number of images."""
    import openvino
    from openvino import opset13 as ops

    given = ops.parameter([-1, channels, side, side], np.float32)
    x: Any = given
    for layer in features.children():
        x = _layer(x, layer)
    make: Any = openvino.Model  # whose declared types contradict each other
    return make([ops.reduce_mean(ops.relu(x), np.array([2, 3]))], [given])


def _layer(x: Any, layer: Any) -> Any:
    from openvino import opset13 as ops

    match layer:
        case _DenseBlock():
            for one in layer.children():
                x = ops.concat([x, _new_channels(x, one)], 1)
            return x
        case _Transition():
            x = _convolved(ops.relu(_normalised(x, layer.norm)), layer.conv)
            return ops.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], False, "floor")
        case nn.Conv2d():
            return _convolved(x, layer)
        case nn.BatchNorm2d():
            return _normalised(x, layer)
        case nn.ReLU():
            return ops.relu(x)
        case nn.MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False):
            return ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], "floor").output(0)
    raise ValueError(f"{type(layer).__name__} is not known")


def _new_channels(x: Any, layer: Any) -> Any:
    """What a layer of a block appends."""
    from openvino import opset13 as ops

    if not isinstance(layer, _DenseLayer) or layer.drop_rate:
        raise ValueError(f"{type(layer).__name__} is not known")
    x = _convolved(ops.relu(_normalised(x, layer.norm1)), layer.conv1)
    return _convolved(ops.relu(_normalised(x, layer.norm2)), layer.conv2)


def _convolved(x: Any, layer: nn.Conv2d) -> Any:
    from openvino import opset13 as ops

    if layer.bias is not None or layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError("a convolution with bias, groups or other padding is not known")
    return ops.convolution(x, _constant(layer.weight), layer.stride, layer.padding, layer.padding, layer.dilation)


def _normalised(x: Any, layer: nn.BatchNorm2d) -> Any:
    """Batch normalisation as one product and one sum, whose numbers are computed in float64."""
    from openvino import opset13 as ops

    assert layer.running_mean is not None and layer.running_var is not None
    factor = layer.weight.double() / torch.sqrt(layer.running_var.double() + layer.eps)
    offset = layer.bias.double() - layer.running_mean.double() * factor
    scaled = ops.multiply(x, _constant(factor.float().view(1, -1, 1, 1)))
    return ops.add(scaled, _constant(offset.float().view(1, -1, 1, 1)))


def _constant(tensor: torch.Tensor) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.array(tensor.detach().contiguous().numpy()))
