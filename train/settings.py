"""Dataclasses of settings: the meaning, default and bounds of each recipe key.

`erc_toolkit.train.config` reads recipes into them and checks values. Each model's module defines its own `Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ..toolkit.base.device import PRECISIONS
from ..toolkit.base.words import did_you_mean

Choice = str | list | dict | None  # of features; erc_toolkit.train.data.joined reads it
JOINS = ("concat", "mean")  # how several features of a modality become one
MISSING_AS = ("absent", "zeros")


def setting(default: object, *, least=None, most=None, below=None, above=None, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with a default and bounds on its value (`least` and `most` are inclusive)."""
    limits = {"least": least, "most": most, "below": below, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata={k: v for k, v in limits.items() if v not in (None, ())})


@dataclass
class DataConfig:
    """Section `data`: what is read from the store.

    Attributes:
        modalities: which to use, of text, audio, visual; None means every modality that the store has features for.
        text, audio, visual: the feature to use: a name, e.g. "ComParE_2016"; a list of names in order of preference, in
            which * stands for anything, of which the first that the store has is used; {"concat": names} or {"mean":
            names} for several as one, also within a list; {"feature": name, "layers": which} for layers of a feature
            that has one vector per layer: "learned" (weights that are trained with the model), "mean", a number counted
            from 0, or "I-J", the mean of those; None for the only one of that modality.
        speakers: how speakers are indexed: by first appearance in the dialogue ("dialogue") or in the whole store
            ("corpus").
        speaker_slots: size of the speaker table; None means as many as the store needs.
        normalise: "zscore" centres and scales every dimension by mean and standard deviation of the training split;
            without it openSMILE functionals, with magnitudes from 1e-6 to 1e6, dominate everything else. "none" uses
            features as stored.
        clip: largest magnitude of a value normalised by "zscore"; larger ones are clipped to it. A dimension that
            hardly varies in training can be thousands of its standard deviations away in another split. None disables
            clipping.
        missing: probability with which each feature is hidden in training and for the selection of the epoch, the same
            ones in every run; an utterance keeps at least one. The test split is complete: the study `missing` hides
            there.
        missing_as: how the model sees what is hidden by `missing`: "absent", like features that the store lacks, or
            "zeros", as a feature that is there and is zero (with "zscore", the mean), which is what most models do.
        val_fraction: share of the training dialogues held out for validation where the store has no "val" split.
    """

    modalities: list[str] | None = None
    text: Choice = None
    audio: Choice = None
    visual: Choice = None
    speakers: str = setting("dialogue", choices=("dialogue", "corpus"))
    speaker_slots: int | None = setting(None, least=1)
    normalise: str = setting("zscore", choices=("none", "zscore"))
    clip: float | None = setting(10.0, above=0)
    missing: float = setting(0.0, least=0, below=1)
    missing_as: str = setting("absent", choices=MISSING_AS)
    val_fraction: float = setting(0.1, above=0, below=1)


@dataclass
class TrainConfig:
    """Section `train`: how the network is trained.

    Attributes:
        epochs, batch_size: the batch size is a number of dialogues.
        optimizer: "adam" adds the weight decay to the gradient, "adamw" decays the weights separately from the
            gradient.
        lr, weight_decay: of the optimizer, for the model. Layer weights (`layers: learned`) have the rate
            `erc_toolkit.train.loop.step.LAYER_LR` and no decay.
        schedule: the learning rate after its warm-up: "constant", or decaying to 0 at the end of the last epoch,
            linearly ("linear") or along half a cosine ("cosine").
        lr_warm_up: number of epochs (may be fractional) over which the learning rate rises linearly from 0 to lr.
        max_grad_norm: gradients with a larger Euclidean norm, over all parameters, are scaled down to it; None disables
            clipping.
        precision: arithmetic of matrix products in training and evaluation: "float32", or "bfloat16", which is faster
            on hardware that supports it and gives slightly different results; "tf32" rounds their inputs to 10 bits, on
            CUDA only.
        execution: how steps are executed: "eager" launches one operation after the other; "compile" compiles the model
            with torch.compile; "cuda-graphs" records a step and repeats it as a whole. The latter two are for CUDA and
            for models whose steps have few shapes (AMB-DSGDN, DEDNet, SDT), and take seconds to minutes at the start.
        class_weights: "balanced" weights the loss by the inverse frequency of the class in the training split.
        patience: number of epochs without improvement after which training stops; None trains for all epochs.
        protocol: "validation" selects the epoch by weighted F1 on held-out dialogues; "best-on-test" trains on training
            and validation dialogues and selects on the test split, as published scripts do, which overestimates
            performance.
        track_test: also score the test split after every epoch, in metrics.jsonl. Nothing chooses by it, and the
            weights are the same without; it shows what choosing by it would have gained.
        seed: of every random number generator.
    """

    epochs: int = setting(61, least=1)
    batch_size: int = setting(16, least=1)
    optimizer: str = setting("adam", choices=("adam", "adamw"))
    lr: float = setting(6.8e-5, above=0)
    schedule: str = setting("constant", choices=("constant", "linear", "cosine"))
    lr_warm_up: float = setting(0.0, least=0)
    weight_decay: float = setting(5e-5, least=0)
    max_grad_norm: float | None = setting(None, above=0)
    precision: str = setting("float32", choices=PRECISIONS)
    execution: str = setting("eager", choices=("eager", "compile", "cuda-graphs"))
    class_weights: str = setting("none", choices=("none", "balanced"))
    patience: int | None = setting(None, least=1)
    protocol: str = setting("validation", choices=("validation", "best-on-test"))
    track_test: bool = False
    seed: int = setting(0, least=0, most=2**32 - 1)


class ModelSettings(Protocol):
    """A dataclass with a model's settings, including `name`.

    An optional `check(where)` rejects invalid combinations. An optional `idle(train)` returns the names of settings
    that change nothing with the others as they are, given the section `train`, each with the reason.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    name: str


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error message about an unknown name: the closest known name, or all of them."""
    return did_you_mean(name, known, most=1, cutoff=0.4, listed=None)
