"""From an utterance's frames to one vector: mean, mean and deviation, or a mean weighted by likeness to the mean."""

from __future__ import annotations

import numpy as np
import torch

# In words, for provenance.
WORDS = {
    "mean": "mean over frames",
    "mean+std": "mean and population standard deviation over frames",
    "attentive": "attention without trained weights: mean and population standard deviation over frames, weighted by "
    "the softmax of (frame . mean frame) / sqrt(width)",
}


def exact_dtype(device: torch.device) -> torch.dtype:
    """The type in which statistics are summed: float64, or float32 on Apple's GPUs, which have nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def pooled_width(width: int, pooling: str) -> int:
    """Columns of a pooled vector for frames of `width` columns."""
    return width if pooling == "mean" else 2 * width


def pooled(frames: torch.Tensor, real: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pools the frames of a batch; those of padding have no influence, whatever they contain.

    With frames h_t of D columns and their mean m, "mean" is m; "mean+std" is m and the population standard deviation;
    "attentive" is the mean and the deviation under weights softmax_t(h_t . m / sqrt(D)).

    Args:
        frames: (batch, T, D), any float type.
        real: bool (batch, T), which frames are no padding; at least one of each row.
        pooling: "mean", "mean+std" or "attentive".

    Returns:
        `exact_dtype` (batch, D), or (batch, 2 * D) with the deviations after the means.
    """
    exact = frames.to(exact_dtype(frames.device)).masked_fill(~real[..., None], 0)
    weights = real.to(exact.dtype) / real.sum(1, keepdim=True)
    mean = _weighted(exact, weights)
    if pooling == "mean":
        return mean
    if pooling == "attentive":
        scores = (exact @ mean[:, :, None])[:, :, 0] / frames.shape[-1] ** 0.5
        weights = scores.masked_fill(~real, -torch.inf).softmax(1)
        mean = _weighted(exact, weights)
    return torch.cat([mean, _weighted((exact - mean[:, None]).square(), weights).sqrt()], 1)


def _weighted(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums (batch, T, D) over T with weights (batch, T) to (batch, D)."""
    return (weights[:, None] @ values)[:, 0]


def pooled_alone(frames: np.ndarray, pooling: str) -> np.ndarray:
    """Pools one utterance's frames on the host.

    Args:
        frames: float32 (T, D), or (layers, T, D) to pool each layer by itself; T at least 1.
        pooling: as of `pooled`.

    Returns:
        float32 (D,) or (2 * D,), or those of the layers one after another.
    """
    if pooling == "mean":
        return frames.mean(-2, dtype=np.float64).astype(np.float32).reshape(-1)
    whole = torch.from_numpy(np.ascontiguousarray(frames)).reshape(-1, *frames.shape[-2:])
    real = torch.ones(1, whole.shape[1], dtype=torch.bool)
    return torch.cat([pooled(layer[None], real, pooling)[0] for layer in whole]).to(torch.float32).numpy()
