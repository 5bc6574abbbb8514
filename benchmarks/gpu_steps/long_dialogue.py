"""One dialogue of 100,000 utterances, and training steps on long ones."""

from __future__ import annotations

import torch
from gpu_steps.common import Job, Row, forget_peak, peak_mib, process_mib, timed

from erc_toolkit.toolkit.base.device import inference
from erc_toolkit.train.config import load_config
from erc_toolkit.train.loop.step import make_optimizer, training_step
from train import one_dialogue

TABLE = "One long dialogue"
WINDOW = 50  # of the encoders


def run(job: Job) -> None:
    """A forward pass over the longest dialogue, then training steps."""
    longest, *trained = (1_000, 100) if job.small else (100_000, 10_000, 30_000)
    job.measure(TABLE, lambda: forward(job, longest), utterances=longest, what="forward pass")
    for length in trained:
        job.measure(TABLE, lambda length=length: step(job, length), utterances=length, what="training step")


def forward(job: Job, length: int) -> Row:
    """Seconds and memory of the second of two forward passes without gradients."""
    model, batch = one_dialogue(length, WINDOW, job.device)
    forget_peak(job.device)

    def once() -> torch.Tensor:
        with inference("float32", job.device):
            return model(batch).logits

    first, logits = timed(once, job.device)
    if not bool(logits.isfinite().all()):
        raise ValueError("a logit is not finite")
    return {"first s": first, "s": timed(once, job.device)[0], **memory(job)}


def step(job: Job, length: int) -> Row:
    """Seconds and memory of the second of two training steps."""
    model, batch = one_dialogue(length, WINDOW, job.device)
    settings = load_config("iemocap").train
    optimizer = make_optimizer(model.train(), settings)
    forget_peak(job.device)

    def once() -> torch.Tensor:
        return training_step(model, optimizer, batch, 0, settings).loss

    first, loss = timed(once, job.device)
    if not bool(loss.isfinite()):
        raise ValueError("the loss is not finite")
    return {"first s": first, "s": timed(once, job.device)[0], **memory(job)}


def memory(job: Job) -> Row:
    """Peak memory: of the device's tensors, or on a CPU of the whole process so far."""
    return {"peak MiB": peak_mib(job.device) if job.cuda else process_mib()}
