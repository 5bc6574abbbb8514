"""A model with learned weights of its encoders' layers, before it and outside of it: every model has them unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..layers.layer_mix import LayerMix
from .base import Model, ModelOutput


class LayerMixed(Model[Any]):
    """A model and the layer weights of some of its modalities, used and trained as one model.

    Its state has the model's names after "model." and each modality's weights as "mix.MODALITY.weight".

    Args:
        model: takes D columns of each modality that is mixed.
        layers: modality to L; at least one modality.

    Attributes:
        model: the argument.
        mix: modality to its `LayerMix`.
    """

    def __init__(self, model: Model[Any], layers: Mapping[str, int]) -> None:
        nn.Module.__init__(self)  # the model has what the base class would make of its arguments
        self.settings, self.dims, self.speakers = model.settings, model.dims, model.speakers
        self.class_counts, self.classes = model.class_counts, model.classes
        self.speaker_use = model.speaker_use
        self.model = model
        self.mix = nn.ModuleDict({m: LayerMix(count) for m, count in layers.items()})

    def mixed(self, batch: Batch) -> Batch:
        """The batch as the model takes it."""
        mixed = {m: mix(batch.features[m]) for m, mix in self.mix.items()}
        return replace(batch, features={**batch.features, **mixed})

    def decide(self, epoch: int) -> bool | None:
        """The model's."""
        return self.model.decide(epoch)

    def forward(self, batch: Batch, epoch: int = 0, *decision: Any) -> ModelOutput:
        """The model's output for the mixed batch; arguments as for the model."""
        return self.model(self.mixed(batch), epoch, *decision)

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The model's loss. It is given the mixed batch, as it may use the features."""
        return self.model.loss(output, self.mixed(batch))


def without_mix(model: nn.Module, batch: Batch) -> tuple[nn.Module, Batch]:
    """The model inside of a `LayerMixed` and the batch that it takes; others as they are."""
    return (model.model, model.mixed(batch)) if isinstance(model, LayerMixed) else (model, batch)


def layer_weights(model: nn.Module) -> dict[str, list[float]]:
    """Modality to the shares of its L layers, which sum to 1; empty for a model without learned ones."""
    if not isinstance(model, LayerMixed):
        return {}
    numbers = {name.removesuffix(".weight"): weight.detach() for name, weight in model.mix.named_parameters()}
    return {m: torch.softmax(weight.cpu().double(), 0).tolist() for m, weight in numbers.items()}


def weights_in_words(weights: Mapping[str, list[float]], most: int = 3) -> list[str]:
    """A line for each modality about its heaviest layers: "audio layers: 0.21 on layer 9, 0.18 on 8, …"."""
    lines = []
    for modality, shares in weights.items():
        order = sorted(range(len(shares)), key=lambda layer: -shares[layer])[:most]
        shown = [f"{shares[layer]:.2f} on {'layer ' if not i else ''}{layer}" for i, layer in enumerate(order)]
        rest = len(shares) - len(order)
        others = f"; {1 - sum(shares[layer] for layer in order):.2f} on the other {rest}" if rest else ""
        lines.append(f"{modality} layers: {', '.join(shown)}{others}")
    return lines
