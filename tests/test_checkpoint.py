"""Training checkpoints: states are restored exactly, and files that do not fit are rejected in one line."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from erc_toolkit.toolkit.base.checkpoint import TrainedParts, load_checkpoint, save_checkpoint
from erc_toolkit.toolkit.base.errors import UserError

OWN = {"settings": "a" * 64, "store": "b" * 64}


def parts(optimizer=torch.optim.AdamW, memory=torch.channels_last) -> TrainedParts:
    """A small network with a convolution in a different memory layout, tied weights and a batch normalisation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 4), nn.Linear(16, 4))
    model[4].weight = model[3].weight
    model = model.to(memory_format=memory)
    return TrainedParts(model, optimizer(model.parameters(), 1e-2), torch.Generator().manual_seed(1))


def train(own: TrainedParts, steps: int) -> list[float]:
    """Losses of steps that use every generator."""
    losses = []
    for _ in range(steps):
        x = torch.randn(2, 3, 4, 4) + float(np.random.rand()) + random.random()
        x = x * torch.rand(1, generator=own.shuffle)
        x = own.model[2](own.model[1](own.model[0](x)))
        loss = (own.model[3](x) + own.model[4](x)).square().mean()
        own.optimizer.zero_grad()
        loss.backward()
        own.optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def strides_of(own: TrainedParts) -> dict[tuple[int, str], tuple[int, ...]]:
    """The memory layout of each moment of the optimizer."""
    moments = own.optimizer.state_dict()["state"]
    return {(i, name): tensor.stride() for i, state in moments.items() for name, tensor in state.items()}


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_a_resumed_training_is_bit_identical(tmp_path, optimizer):
    random.seed(0), np.random.seed(0)
    own = parts(optimizer)
    np.random.randn(1)  # leaves a second normal value in the generator
    train(own, 3)
    facts = {"epoch": 3, "numbers": [0.1, None]}
    save_checkpoint(tmp_path / "c", OWN, own, facts, {"x.y": torch.arange(3)})
    strides = strides_of(own)
    expected, normal = train(own, 3), np.random.randn(2).tolist()
    random.seed(9), np.random.seed(9)
    other = parts(optimizer)
    torch.manual_seed(9)
    loaded, tensors = load_checkpoint(tmp_path / "c", OWN, other, "do it again")
    assert loaded == facts and list(tensors) == ["x.y"] and tensors["x.y"].tolist() == [0, 1, 2]
    assert strides_of(other) == strides
    assert train(other, 3) == expected and np.random.randn(2).tolist() == normal
    assert all(a.equal(b) for a, b in zip(own.model.parameters(), other.model.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_missing_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "c", OWN, parts(), "do it again") is None


def test_another_fingerprint_is_rejected(tmp_path):
    save_checkpoint(tmp_path / "c", OWN, parts(), {})
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "c", OWN | {"store": "c" * 64}, parts(), "do it again")
    message = error.value.message
    assert str(tmp_path / "c") in message and "store bbbb" in message and "store cccc" in message
    assert "settings" not in message and "do it again" in message


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "no header", "another model", "format"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    from safetensors.torch import save_file

    path = tmp_path / "c"
    save_checkpoint(path, OWN, parts(), {})
    content = path.read_bytes()
    if damage == "no header":
        save_file({"x": torch.zeros(1)}, path)
    elif damage == "another model":
        other = nn.Linear(2, 2)
        save_checkpoint(path, OWN, TrainedParts(other, torch.optim.Adam(other.parameters()), torch.Generator()), {})
    elif damage == "format":
        path.write_bytes(content.replace(b'\\"format\\": 2', b'\\"format\\": 1'))
        assert path.read_bytes() != content
    else:
        path.write_bytes({"truncated": content[:-100], "empty": b"", "noise": bytes(range(256)) * 9}[damage])
    with pytest.raises(UserError) as error:
        load_checkpoint(path, OWN, parts(), "do it again")
    message = error.value.message
    assert str(path) in message and "do it again" in message and "\n" not in message
