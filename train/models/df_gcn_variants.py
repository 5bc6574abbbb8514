"""DF-GCN's settings; and the authors' code with its bugs and without them, switch by switch.

The variant "reconstruction" is not of this family: it follows the paper's abstract, and nothing here concerns it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..layers.graph_ode import SOLVERS
from ..settings import setting
from .base import check_heads


@dataclass(frozen=True, slots=True)
class Switches:
    """What a variant does that the authors cannot have meant.

    Attributes:
        padding: dialogues are padded with zeros to the batch's longest; that counts in the statistics of the text's batch
            norm and in the mean that gives the global vector, so that results depend on the other dialogues of a batch.
            Otherwise neither sees any padding.
        text_as_speaker: the graphs are built from the text's vectors (the fourth RoBERTa layer, which is where they
            look for the speaker): two utterances have one speaker where their texts are equal. Otherwise from the speakers.
        text_encoder_again: after the graphs comes the text's own encoder once more, with its weights. Otherwise an encoder of
            its own, which their class creates and never calls.
        frozen_prompt: neither the prompt's MLP nor its matrix ever learns, because the matrix is no parameter and their
            product passes through numpy. Otherwise both do.
    """

    padding: bool
    text_as_speaker: bool
    text_encoder_again: bool
    frozen_prompt: bool


VARIANTS = {
    "released": Switches(padding=True, text_as_speaker=True, text_encoder_again=True, frozen_prompt=True),
    "repaired": Switches(padding=False, text_as_speaker=False, text_encoder_again=False, frozen_prompt=False),
}
RECONSTRUCTION = "reconstruction"


@dataclass
class Settings:
    """Section `model`. The settings from `ode_steps` to `temperature` concern the variant "reconstruction" alone.

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
        relations: whether the ODE's graph distinguishes the same speaker from others and before from after.
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
        check_heads(where, self.hidden, self.heads)
