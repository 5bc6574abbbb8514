"""A batch that does not fit in the device's memory is halved, and no item is lost or processed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erc_toolkit.extract.encoders.batching import Batches
from erc_toolkit.extract.encoders.text import TextEncoder
from erc_toolkit.toolkit.base.errors import UserError


def holding(most: int, seen: list[int]):
    def work(items):
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(items))
        return [10 * item for item in items]

    return work


def test_batches_are_halved_until_they_fit(capsys):
    batches, seen = Batches("text model x"), []
    assert batches.run(holding(3, seen), list(range(16))) == [10 * i for i in range(16)]
    assert seen == [2] * 8 and batches.most == 2
    assert batches.run(holding(3, seen), [1, 2, 3]) == [10, 20, 30]
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("text model x: ") for line in lines) and "batches of 8" in lines[0]


def test_an_item_that_never_fits_is_an_error():
    with pytest.raises(UserError, match="text model x: .*--device cpu"):
        Batches("text model x").run(holding(0, []), [1, 2])


def test_the_text_encoder_continues_with_smaller_batches(text_encoder, monkeypatch):
    encoder = TextEncoder(str(text_encoder))
    texts = [f"what do you want {'now ' * (i % 4)}" for i in range(20)]
    expected = encoder(texts)[0]
    forward = encoder._model.forward

    def small_memory(*args, **kwargs):
        if len(kwargs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(encoder._model, "forward", small_memory)
    np.testing.assert_allclose(encoder(texts)[0], expected, rtol=1e-4, atol=1e-5)


def test_text_in_bfloat16_is_near_float32_and_recorded(text_encoder):
    exact, fast = TextEncoder(str(text_encoder)), TextEncoder(str(text_encoder), precision="bfloat16")
    a, b = exact(["Hello there, my day."])[0], fast(["Hello there, my day."])[0]
    assert b.dtype == np.float32 and 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert fast.provenance()["parameters"]["dtype"] == "bfloat16"
