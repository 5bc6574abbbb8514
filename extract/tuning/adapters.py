"""What of a model is trained: all of it, its upper layers, or low-rank adapters (LoRA) that are merged at the end."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...toolkit.base.errors import UserError
from ...toolkit.base.extras import require_extra

ADAPTER = "LoRA on every linear layer of the encoder or decoder, alpha twice the rank, no dropout in the adapters"


def with_adapters(model: Any, rank: int, kind: str | None, heads: Sequence[str]) -> Any:
    """The model with LoRA adapters of a rank; all of its own weights are frozen, except those of its heads.

    The adapters and the heads are float32, whatever the model is in. The adapters' start is drawn from PyTorch's global
    generator.

    Args:
        model: of transformers; changed in place.
        rank: of the adapters, at least 1.
        kind: peft's name of the task, "SEQ_CLS" or "CAUSAL_LM", or None for others.
        heads: names of its modules that are trained whole.

    Raises:
        UserError: peft is not installed, or the model has no linear layer.
    """
    require_extra("--lora", "peft", "llm")
    from peft import LoraConfig, get_peft_model

    present = [name for name in heads if hasattr(model, name)]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        modules_to_save=present or None,
        task_type=kind,
    )
    try:
        with warnings.catch_warnings():  # of names that transformers will change
            warnings.simplefilter("ignore", FutureWarning)
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"--lora {rank}: {model.config.model_type} takes no adapters ({error})") from None
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def merged(adapted: Any) -> Any:
    """The plain model of an adapted one, float32 on the CPU, with the adapters added to its weights.

    In float32 even if the frozen weights are bfloat16: there, most of what the adapters learned would be rounded away.
    """
    if importlib.util.find_spec("accelerate") is not None:
        from accelerate.hooks import remove_hook_from_submodules

        remove_hook_from_submodules(adapted)  # of a device map, which would forbid the move
    plain = adapted.to("cpu").float().merge_and_unload()
    plain.config.dtype = torch.float32
    return plain


def freeze_below(model: Any, layers: int, heads: Sequence[str]) -> list[str]:
    """Freezes what comes before layer `layers` of an encoder: its convolutions or embeddings, and the layers below.

    Args:
        model: of transformers, with a head; changed in place.
        layers: how many layers to freeze; 0 freezes nothing.
        heads: names of its modules that are trained in any case.

    Returns:
        The names of the frozen parameters.

    Raises:
        UserError: it has no such number of layers.
    """
    if not layers:
        return []
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.rpartition(".")[2] == "layers"
        and not name.startswith(tuple(heads))
    }
    name, stack = max(stacks.items(), key=lambda item: len(item[1]), default=("", nn.ModuleList()))
    if layers > len(stack):
        raise UserError(f"--freeze-layers {layers}: the model has {len(stack)} layers")
    parent, frozen = name.removesuffix("layers"), []
    always = tuple(f"{head}." for head in heads) + tuple(heads)
    for full, parameter in model.named_parameters():
        if full.startswith(always):
            continue
        if full.startswith(f"{name}."):
            below = int(full[len(name) + 1 :].partition(".")[0]) < layers
        else:  # a norm next to the layers may come after them
            below = not (full.startswith(parent) and "norm" in full[len(parent) :].partition(".")[0])
        if below:
            parameter.requires_grad_(False)
            frozen.append(full)
    return frozen


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of what is trained, in the model's order."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


class TrainedState(nn.Module):
    """The part of a model that a checkpoint must hold: everything except its frozen parameters.

    A model without frozen parameters is as if it were not wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.whole = model

    def _frozen(self) -> set[str]:
        named = self.whole.named_parameters(remove_duplicate=False)  # tied weights have two names
        return {name for name, parameter in named if not parameter.requires_grad}

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The tensors by the model's own names."""
        frozen = self._frozen()
        return {name: tensor for name, tensor in self.whole.state_dict().items() if name not in frozen}

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> None:  # pyright: ignore
        """Puts such tensors back.

        Raises:
            RuntimeError: names or shapes are not this model's.
        """
        missing, unexpected = self.whole.load_state_dict(state_dict, strict=False)
        if wrong := [*unexpected, *sorted(set(missing) - self._frozen())]:
            raise RuntimeError(f"does not fit the model: {wrong[0]}")
