"""Every model's logits, loss and gradients on the device against the CPU's in float32, without dropout."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import torch
from gpu_steps.common import Job, Row, Skip, difference
from torch import Tensor, nn

from erc_toolkit.train.config import Config, load_config
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.loop.execution import Compiled, CudaRecorder, Recorded
from erc_toolkit.train.loop.step import gradients
from erc_toolkit.train.models.base import Model
from erc_toolkit.train.models.registry import MODELS, model_class
from train import SHAPES

TABLE = "Agreement with the CPU"
EXECUTION = "Agreement with one operation after the other"
# The largest relative differences that pass: of logits and loss, and of gradients. Those of lower precisions are wide:
# their gradients pass through many products, and are reported without a bound.
BOUNDS: dict[str, tuple[float, float | None]] = {
    "float64 on the CPU": (1e-4, 1e-4),
    "float32": (1e-4, 1e-4),
    "tf32": (1e-2, None),
    "bfloat16": (1e-1, None),
    "cuda-graphs": (1e-4, 1e-4),
    "compile": (1e-4, 1e-4),
}
# A gradient is compared relative to its own largest number, but to no less than this share of the model's largest:
# some are zero but for rounding, such as those of a shift before a softmax.
LEAST = 1e-3
Numbers = dict[str, Tensor]


def run(job: Job) -> None:
    """All models in all precisions, then the recorded ones, then the CPU, to see how exact its own numbers are."""

    @functools.cache
    def reference(name: str) -> tuple[Model, Batch, Numbers]:
        _, model, batch = case(name, job.small)
        return model, batch, numbers(copy.deepcopy(model), batch, "float32")

    def compare(name: str, what: str, precision: str, device: torch.device, dtype: torch.dtype) -> None:
        def work() -> Row:
            if not job.cuda and what in ("float32", "tf32"):
                raise Skip("the device is the CPU" if what == "float32" else "CUDA only")
            model, batch, wanted = reference(name)
            there = copy.deepcopy(model).to(device, dtype)
            return compared(what, numbers(there, moved(batch, device, dtype), precision), wanted)

        job.measure(TABLE, work, model=name, arithmetic=what)

    for name in MODELS:
        for precision in ("float32", "tf32", "bfloat16"):
            compare(name, precision, precision, job.device, torch.float32)
    for name in capturable():
        if job.cuda:
            execution(job, name, "cuda-graphs")
        else:
            job.skip(EXECUTION, "CUDA only", model=name, execution="cuda-graphs")
    for name in MODELS:
        compare(name, "float64 on the CPU", "float32", torch.device("cpu"), torch.float64)


def capturable() -> list[str]:
    """The models whose steps can be compiled or recorded."""
    return [name for name in MODELS if model_class(name).capturable]


def execution(job: Job, name: str, how: str) -> None:
    """A capturable model's steps on the device, compiled or recorded, against one operation after the other."""

    def work() -> Row:
        config, model, first = case(name, job.small)
        if how == "compile" and not job.cuda:
            raise Skip("torch.compile is for CUDA here")
        model = without_dropout(model.to(job.device))
        settings = config.train
        settings.execution, settings.batch_size = how, len(first)
        made = Compiled(model, settings) if how == "compile" else Recorded(model, settings, CudaRecorder(job.device))
        worst: Row = {}
        # The second batch has the first one's shape and other numbers: it is a repetition. Then the first one again.
        for seed in (0, 1, 0):
            batch = moved(random_batch(lengths(job.small), job.small, seed), job.device)
            loss, _ = made(batch, 0)
            found = {"loss": loss.clone(), **grads(model)}
            expected, _ = gradients(model, settings, batch, lambda batch=batch: model(batch, 0))
            row = compared(how, found, {"loss": expected, **grads(model)})
            if not worst or row["loss"] + row["gradients"] > worst["loss"] + worst["gradients"]:
                worst = row
        return worst

    job.measure(EXECUTION, work, needs=5, model=name, execution=how)


def lengths(small: bool) -> tuple[int, ...]:
    """Utterances of the dialogues of a batch."""
    return (5, 3, 1, 7) if small else (17, 33, 1, 8, 24, 45, 2, 30)


def classes_of(small: bool) -> int:
    """Emotions of the corpora of the recipes: those of the demo, or of IEMOCAP."""
    return 7 if small else 6


def case(name: str, small: bool) -> tuple[Config, Model, Batch]:
    """A model on the CPU, of the size of its IEMOCAP recipe or of its demo recipe, and a batch for it."""
    corpus = "demo" if small else "iemocap"
    recipe = corpus if name == "amb-dsgdn" else f"{name}-{corpus}"
    config = load_config(recipe, ["data.speaker_slots=null", "train.class_weights=balanced"])
    batch = random_batch(lengths(small), small, 0)
    torch.manual_seed(0)
    dims = {m: x.shape[1] for m, x in batch.features.items()}
    return config, build_model(config, dims, 2, np.arange(40, 40 - classes_of(small), -1)).eval(), batch


def random_batch(of: tuple[int, ...], small: bool, seed: int) -> Batch:
    """Random dialogues; a fifth of the features is absent and a tenth of the labels."""
    draw = torch.Generator().manual_seed(seed)
    dims = {"text": 24, "audio": 20, "visual": 16} if small else SHAPES["iemocap"][3]
    n = sum(of)
    present = {m: torch.rand(n, generator=draw) >= 0.2 for m in dims}
    features = {m: torch.randn(n, dim, generator=draw) * present[m][:, None] for m, dim in dims.items()}
    labels = torch.randint(classes_of(small), (n,), generator=draw)
    return Batch(
        features,
        present,
        torch.randint(2, (n,), generator=draw),
        torch.where(torch.rand(n, generator=draw) < 0.1, -1, labels),
        torch.arange(len(of)).repeat_interleave(torch.tensor(of)),
        torch.tensor([0, *np.cumsum(of).tolist()]),
    )


def moved(batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch on another device, with features of another type."""
    there = batch.to(device)
    return replace(there, features={m: x.to(dtype) for m, x in there.features.items()})


def numbers(model: Model, batch: Batch, precision: str) -> Numbers:
    """Logits, loss and gradients of a model in evaluation mode."""
    config = load_config("demo").train
    config.precision = precision
    for module in model.modules():
        if isinstance(module, nn.RNNBase):  # cuDNN has no backward pass in evaluation mode
            module.train()
            module.dropout = 0.0
    logits: list[Tensor] = []

    def forward():
        output = model(batch)
        logits.append(output.logits.detach())
        return output

    loss, _ = gradients(model, config, batch, forward)
    return {"logits": logits[0], "loss": loss, **grads(model)}


def grads(model: Model) -> Numbers:
    """A copy of every gradient."""
    return {f"grad {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def compared(what: str, found: Numbers, expected: Numbers) -> Row:
    """The largest relative differences, and whether they are within the bounds of `what`."""
    if missing := found.keys() ^ expected.keys():
        raise ValueError(f"only one of the two has {sorted(missing)[0]}")
    own = [name for name in expected if name.startswith("grad ")]
    least = LEAST * max(float(expected[name].abs().max()) for name in own)
    by = {name: difference(found[name], expected[name], least) for name in own}
    worst = max(by, key=lambda name: by[name])
    shown = {name: difference(found[name], expected[name]) for name in ("logits", "loss") if name in expected}
    bound, of_gradients = BOUNDS[what]
    agrees = max(shown.values()) <= bound and (of_gradients is None or by[worst] <= of_gradients)
    return {
        **shown,
        "gradients": by[worst],
        # One rectifier that is on in one of the two and off in the other changes the line above, and hardly this one.
        "gradients, norm": difference_of_norms([(found[name], expected[name]) for name in own]),
        "worst gradient": worst.removeprefix("grad "),
        "bound": bound,
        "bound of gradients": of_gradients,
        "agrees": agrees,
    }


def difference_of_norms(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The norm of all differences, relative to the norm of all that was expected."""
    squares = [0.0, 0.0]
    for found, expected in pairs:
        a, b = found.detach().cpu().double(), expected.detach().cpu().double()
        squares[0] += float((a - b).square().sum())
        squares[1] += float(b.square().sum())
    return (squares[0] / max(squares[1], 1e-300)) ** 0.5


def without_dropout(model: Model) -> Model:
    """Sets every probability of dropout to 0, of modalities too, and the model to training mode."""
    for module in model.modules():
        for key in ("p", "rate", "dropout"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)
    if hasattr(model.settings, "p_exe"):
        model.settings.p_exe = 0.0
    return model.train()
