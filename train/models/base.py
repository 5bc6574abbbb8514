"""The base class of models: settings, constructor arguments, input, output and the default loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from ...toolkit.base.errors import UserError
from ..data.batch import Batch
from ..layers.losses import weighted_loss
from ..settings import ModelSettings

_TINY = 1e-12  # share of a class without training examples
SpeakerUse = Literal["none", "identity", "embedding", "index"]
SettingsType = TypeVar("SettingsType", bound=ModelSettings)


@dataclass(frozen=True)
class ModelInfo:
    """What `erc-toolkit models` prints about a model.

    Attributes:
        title: its name as published.
        paper: where it is described; "none (baseline)" for a baseline.
        specified: what the implementation is based on: "in full: code and paper", "their code", "reconstruction: …".
    """

    title: str
    paper: str
    specified: str


@dataclass(slots=True)
class ModelOutput:
    """A model's output for a batch of N utterances and C classes.

    Attributes:
        logits: [N, C] float, the prediction.
        unimodal: modality to [N, C] float, the logits from that modality alone; rows of utterances without the modality
            are finite but meaningless. Empty for models without such predictions.
        parts: name to tensor, anything else that the model's own loss needs.
        ratios: [M] float, the probability with which each modality was dropped in this training step, in the order of
            the model's modalities; None if modality dropout was not applied.
    """

    logits: Tensor
    unimodal: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
    ratios: Tensor | None = None


class Model(nn.Module, Generic[SettingsType]):
    """The base class of all models.

    A subclass has the class attributes `Settings` and `about` and the method `forward`; it creates its layers in
    `build`, and overrides `loss` if it does not minimise the weighted cross-entropy. `docs/how-to/models.md` shows a
    complete one.

    Args:
        settings: an instance of `Settings`.
        dims: modality ("text", "audio", "visual"; any non-empty subset) to the width of its features.
        speakers: number of speaker indices; those in a batch are smaller, or -1 if `speaker_use` allows it.
        class_counts: [C] float64, labelled utterances of each class in the training split.
        class_weights: [C] float64 for the loss, or None for equal weights.

    Attributes:
        capturable: whether a training step can be recorded once for a size of batch and then repeated for others
            (`train.execution`): its shapes depend on the batch as `Batch.padded` makes it, and neither on the host's
            decisions other than `decide` nor on `epoch`; it copies nothing from the host, and the utterances that
            `padded` adds change nothing. A class attribute.
        speaker_use: what the model does with speakers, which decides whether it can be applied to people whom it does
            not know, and to more of them than in training. "none": nothing. "identity": it asks only who is the same
            person, of `Batch.people`. "embedding": it has also learned parameters for each index of `Batch.speakers`,
            and takes their mean for index -1, as `erc_toolkit.train.layers.speakers` does. "index", the default: it has
            such parameters, and there must not be more speakers. A class attribute, or set in `build`.
        Settings: dataclass of the section `model` of a recipe. Every field has a default;
            `erc_toolkit.train.settings.setting` adds bounds. It has a field `name`, and may have a method
            `check(where)`, which raises a UserError that begins with `where` if settings contradict each other.
        about: what `erc-toolkit models` prints.
        settings, dims, speakers, class_counts: the arguments.
        classes: C.
        class_weights: the argument, as a buffer.
    """

    capturable: ClassVar[bool] = False
    speaker_use: SpeakerUse = "index"
    Settings: ClassVar[type[ModelSettings]]
    about: ClassVar[ModelInfo]
    settings: SettingsType
    class_weights: Tensor | None
    log_prior: Tensor  # after `keep_prior`

    def __init__(
        self,
        settings: SettingsType,
        dims: Mapping[str, int],
        speakers: int,
        class_counts: Tensor,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.dims = dict(dims)
        self.speakers = speakers
        self.class_counts = class_counts
        self.classes = len(class_counts)
        if class_weights is not None:
            class_weights = class_weights.to(torch.get_default_dtype())  # not every device has float64
        self.register_buffer("class_weights", class_weights)
        self.build()

    def build(self) -> None:
        """Creates the layers from the attributes above; the constructor calls it last.

        Weights are drawn in the order in which the layers are created.

        Raises:
            UserError: the settings do not fit the features or the classes.
        """

    def keep_prior(self) -> None:
        """Adds the buffer `log_prior`, [C]: the logits of an utterance about which nothing is known.

        They are the log shares of the classes in the training split; a class without examples has a tiny one.
        """
        prior = (self.class_counts / self.class_counts.sum().clamp_min(1)).clamp_min(_TINY)
        self.register_buffer("log_prior", prior.log().to(torch.get_default_dtype()))

    def decide(self, epoch: int) -> bool | None:
        """What the host decides at random for a training step; None if nothing.

        A capturable model whose steps differ takes it as the third argument of `forward`, and decides for itself there
        if it is not given.
        """
        return None

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch; `epoch`, counted from 0, is for schedules during training."""
        raise NotImplementedError

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Cross-entropy, a mean over the labelled utterances weighted by class: a scalar, 0 if nothing is labelled."""
        return weighted_loss(output.logits, batch.labels, self.class_weights)

    def concatenated(self, batch: Batch) -> Tensor:
        """The features of all modalities, concatenated, [N, sum of dims]; absent ones are zeros."""
        return torch.cat([batch.features[m] for m in self.dims], 1)


def check_heads(where: str, hidden: int, heads: int, even: bool = True) -> None:
    """Raises a UserError if `hidden` channels cannot be split among attention heads.

    Args:
        where: start of the message.
        hidden, heads: the settings model.hidden and model.heads.
        even: whether `hidden` must also be even, as position codes require.
    """
    if hidden % heads or (even and hidden % 2):
        parity = "even and " if even else ""
        raise UserError(f"{where}: model.hidden={hidden} must be {parity}a multiple of model.heads={heads}")
