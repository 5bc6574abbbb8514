"""Which utterances an utterance attends to: the attention edges of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.batch import Batch
from ..layers.subgraphs.graph_attention import GraphAttention
from ..models.layer_mixed import without_mix

GRAPHS = ("inter", "intra")


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of one graph in one modality, means over the heads of the block's first layer.

    Attributes:
        i, j: (E,) int64, indices of utterances in the batch; i attends to j.
        relation: (E,) int64, as returned by `erc_toolkit.train.layers.subgraphs.graph.Graph.edges`.
        branches: (E, branches) float32, the softmax of each branch; in differential attention, positive and negative.
        weight: (E,) float32, the weight used; in differential attention, positive - lambda * negative.
    """

    i: np.ndarray
    j: np.ndarray
    relation: np.ndarray
    branches: np.ndarray
    weight: np.ndarray


def attention_edges(model: nn.Module, batch: Batch) -> dict[str, dict[str, Edges]]:
    """Maps modality to graph ("inter", "intra") to its edges; empty if the model has no such attention.

    Args:
        model: a model in evaluation mode, with `streams` like AMB-DSGDN's and `represent(batch)`; with learned layer
            weights around it or without.
        batch: the dialogues.
    """
    model, batch = without_mix(model, batch)
    layers = {
        (modality, graph): block.heads
        for modality, stream in getattr(model, "streams", {}).items()
        for graph in GRAPHS
        if (block := getattr(stream, graph, None)) is not None and isinstance(block.heads, GraphAttention)
    }
    found: dict[str, dict[str, Edges]] = {}
    handles = []

    def record_edges(modality: str, graph: str) -> None:
        def hook(layer: GraphAttention, inputs: tuple, output: torch.Tensor) -> None:
            x, edges = inputs
            softmaxes = layer.softmaxes(x @ layer.weight.flatten(1), edges)
            i, j, relation = edges.edges()
            real = edges.mask.flatten().nonzero()[:, 0]  # same order; padding of the last block is dropped
            branches = softmaxes.mean(0).flatten(1)[:, real][:, : len(i)].T
            weight = layer.combine(softmaxes).mean(0).flatten()[real][: len(i)]
            arrays = [t.detach().cpu().numpy() for t in (i, j, relation, branches.float(), weight.float())]
            found.setdefault(modality, {})[graph] = Edges(*arrays)

        handles.append(layers[modality, graph].register_forward_hook(hook))

    try:
        for name in layers:
            record_edges(*name)
        # Without gradients, a model may split long dialogues, and edges would be relative to each chunk.
        with torch.enable_grad():
            if layers:
                represent: Any = model.represent
                represent(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found
