"""DF-GCN (arXiv 2603.22345): a graph ODE over fused utterances and a map whose parameters depend on what was said.

We know the abstract and the authors' public code, not the equations, and the two disagree: the code has no differential
equation, and its dynamic part never learns. So there are three variants. "reconstruction" does what the abstract says in a way
that is ours in every detail; "released" does what the code does, its bugs included; "repaired" is the code without them, see
`erc_toolkit.train.models.df_gcn_variants`. `docs/explanation/models/df-gcn.md` has the equations.

All variants have a stream per modality (with encoder, positions and speakers also for text) and a head per modality, whose
logits are summed. Utterances may lack modalities: a feature that is absent is no attention key, adds nothing to the sum of the
modalities, to the logits and to its modality's loss; an utterance without any is no neighbour. Any subset of text, audio and
visual will do; without text, "released" builds its graphs from the speakers and has an encoder of its own after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ...toolkit.base.errors import UserError
from ..config import setting
from ..data.batch import Batch
from ..layers.dropout import Dropout
from ..layers.graph_ode import SOLVERS
from ..layers.heads import Logits, weighted_loss
from ..layers.sequence import Padded
from .df_gcn_parts import Context, Reconstruction, ReleasedFusion, Stream, context
from .df_gcn_variants import RECONSTRUCTION, VARIANTS, Switches
from .registry import About


@dataclass
class Settings:
    """Section `model`. What stands from `ode_steps` to `temperature` concerns the variant "reconstruction" alone.

    Attributes:
        variant: "reconstruction", "released" or "repaired", see above.
        hidden: channels of every representation.
        heads: attention heads of the encoders.
        window: how many utterances back and ahead the graphs reach.
        dropout: in encoders and classification heads.
        graph_dropout: before the ODE; in the other variants in the graph blocks.
        text_layers: vectors side by side in the text feature, which are averaged; the authors read four layers of RoBERTa.
        ode_steps: of the solver; 0 leaves the ODE out.
        solver: "rk4" or "euler".
        horizon: time at which the ODE's state is read.
        restart: whether the ODE is drawn back to where it began.
        relations: whether the ODE's graph tells the same speaker from others and before from after.
        dynamic: whether the parameters of the map after the ODE depend on the "dialogue" or on the "utterance" in it; with
            "none" there is no such map.
        boxes: matrices from which that map is mixed; 1 makes it static.
        temperature: of the softmax that mixes them.
        readout: "both" sums the logits of the modalities' heads and of the fused one; "fused" and "modalities" have one kind.
    """

    name: str = "df-gcn"
    variant: str = setting(RECONSTRUCTION, choices=(RECONSTRUCTION, *VARIANTS))
    hidden: int = setting(512, least=2)
    heads: int = setting(8, least=1)
    window: int = setting(10, least=0)
    dropout: float = setting(0.5, least=0, below=1)
    graph_dropout: float = setting(0.2, least=0, below=1)
    text_layers: int = setting(1, least=1)
    ode_steps: int = setting(4, least=0)
    solver: str = setting("rk4", choices=SOLVERS)
    horizon: float = setting(1.0, above=0)
    restart: bool = True
    relations: bool = True
    dynamic: str = setting("utterance", choices=("utterance", "dialogue", "none"))
    boxes: int = setting(8, least=1)
    temperature: float = setting(1.0, above=0)
    readout: str = setting("both", choices=("both", "fused", "modalities"))

    def check(self, where: str) -> None:
        """Raises a UserError where settings do not agree."""
        if self.hidden % self.heads or self.hidden % 2:
            raise UserError(
                f"{where}: model.hidden={self.hidden} must be even and a multiple of model.heads={self.heads}"
            )


class DFGCN(nn.Module):
    """Dynamic fusion-aware graph convolutional network. Arguments as `erc_toolkit.train.models.registry` says.

    Args:
        switches: in place of those that `config.variant` stands for; for tests of one at a time.
    """

    Settings = Settings
    about = About("DF-GCN", "arXiv 2603.22345", "reconstruction from the abstract; also their code")

    def __init__(
        self,
        config: Settings,
        dims: Mapping[str, int],
        speakers: int,
        class_counts: Tensor,
        class_weights: Tensor | None = None,
        switches: Switches | None = None,
    ) -> None:
        super().__init__()
        self.window = config.window
        self.switches = switches or VARIANTS.get(config.variant)
        classes = len(class_counts)
        self.text_layers = config.text_layers
        norm = self.switches is not None  # a store's features come normalised; their code does it in the model
        self.streams = nn.ModuleDict(
            {
                m: Stream(dim, config.text_layers, norm, config) if m == "text" else Stream(dim, 1, False, config)
                for m, dim in dims.items()
            }
        )
        self.speaker = nn.Embedding(speakers + 1, config.hidden, padding_idx=speakers)

        def head() -> nn.Module:
            return weight_norm(nn.Linear(config.hidden, classes))

        self.heads = nn.ModuleDict({m: head() for m in dims} if config.readout != "fused" else {})
        self.fusion = self.fused_head = None
        if config.readout != "modalities":
            self.fused_head = head()
            if self.switches is None:
                self.fusion = Reconstruction(config)
            else:
                self.fusion = ReleasedFusion(config, self.switches, "text" in dims)
        self.dropout = Dropout(config.dropout)
        self.register_buffer("class_weights", class_weights)

    def forward(self, batch: Batch, epoch: int = 0) -> Logits:
        """Logits of a batch; `parts` has what mixed the dynamic map, "boxes" [N, boxes] or "prompt" [N, hidden]."""
        padded = None
        if self.switches is not None and self.switches.padding:
            padded, batch = pad(batch, self.speaker.padding_idx)
        where = self._context(batch, None if padded is None else padded.mask.flatten())
        x = {m: stream(batch.features[m], batch.present[m], where) for m, stream in self.streams.items()}
        logits = {m: self._head(head, x[m]) for m, head in self.heads.items()}
        counted = {m: torch.where(batch.present[m][:, None], y, 0) for m, y in logits.items()}
        fused, parts = sum(counted.values()), {}
        if self.fusion is not None:
            total = sum(x.values())
            if self.switches is None:
                y, parts = self.fusion(total, where)
            else:
                y, parts = self.fusion(total, where, self.streams["text"].encoder if "text" in x else None)
            fused = fused + self._head(self.fused_head, y)
        if padded is not None:
            fused, logits, parts = (
                padded.pack(fused.unflatten(0, padded.mask.shape)),
                *({k: padded.pack(y.unflatten(0, padded.mask.shape)) for k, y in of.items()} for of in (logits, parts)),
            )
        return Logits(fused, logits, parts)

    def loss(self, output: Logits, batch: Batch) -> Tensor:
        """Fused loss plus a tenth of each modality's squared loss, a scalar; of the modalities alone with that readout.

        Each is a weighted mean over the labelled utterances, those that have the modality.
        """
        total = weighted_loss(output.logits, batch.labels, self.class_weights)
        for modality, logits in output.unimodal.items():
            labels = torch.where(batch.present[modality], batch.labels, -1)
            total = total + weighted_loss(logits, labels, self.class_weights) ** 2 / 10
        return total

    def _head(self, head: nn.Module, x: Tensor) -> Tensor:
        return head(self.dropout(F.relu(x)))

    def _context(self, batch: Batch, real: Tensor | None) -> Context:
        identity = None
        if self.switches is not None and self.switches.text_as_speaker and "text" in self.streams:
            text = batch.features["text"].unflatten(1, (self.text_layers, -1))[:, -1]
            identity = text.unique(dim=0, return_inverse=True)[1]
        return context(batch, self.speaker, self.window, real, identity)


def pad(batch: Batch, speaker: int) -> tuple[Padded, Batch]:
    """A batch whose dialogues all have the length of the longest: more rows of zeros, present in no modality.

    Args:
        batch: any.
        speaker: index for the speaker of the rows that are added.

    Returns:
        where the utterances lie in it, and the batch; its `labels` are -1 in the rows that were added.
    """
    padded = Padded(batch.offsets, batch.labels.device)
    count, longest = padded.mask.shape

    def rows(x: Tensor, fill: float = 0) -> Tensor:
        return padded.pad(x, fill).flatten(0, 1)

    dialogue = torch.arange(count, device=batch.labels.device).repeat_interleave(longest)
    features, present = ({m: rows(x) for m, x in of.items()} for of in (batch.features, batch.present))
    return padded, replace(
        batch,
        features=features,
        present=present,
        speakers=rows(batch.speakers, speaker),
        labels=rows(batch.labels, -1),
        dialogue=dialogue,
        offsets=torch.arange(count + 1) * longest,
    )
