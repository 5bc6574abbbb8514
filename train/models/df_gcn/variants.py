"""DF-GCN's settings, and the switches between the authors' code with and without its bugs.

The switches do not apply to the variant "reconstruction", which follows the paper's abstract.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...layers.subgraphs.graph_ode import SOLVERS
from ...settings import setting
from ..base import check_heads


@dataclass(frozen=True, slots=True)
class Switches:
    """What a variant does that the authors cannot have intended.

    Attributes:
        padding: dialogues are padded with zeros to the longest in the batch; the statistics of the text's batch norm
            and the mean behind the global vector include the padding, so that results depend on the other dialogues of
            a batch. Otherwise neither includes padding.
        text_as_speaker: the graphs are built from the text's vectors (the fourth RoBERTa layer, which their code uses
            as the speaker): two utterances have the same speaker if their texts are equal. Otherwise from the speakers.
        text_encoder_again: after the graphs the text's encoder is applied again, with the same weights. Otherwise a
            separate encoder, which their class creates but never calls.
        frozen_prompt: neither the prompt's MLP nor its matrix is trained, because the matrix is not a parameter and
            their product passes through NumPy. Otherwise both are.
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
    """Section `model`. The settings from `ode_steps` to `temperature` apply only to the variant "reconstruction".

    Attributes:
        variant: "reconstruction", "released" or "repaired", see above.
        hidden: channels of every representation.
        heads: attention heads of the encoders.
        window: how many utterances back and ahead the graphs reach.
        dropout: in encoders and classification heads.
        graph_dropout: before the ODE; in the other variants in the graph blocks.
        text_layers: number of vectors concatenated in the text feature, which are averaged; None for as many as
            `data.text` concatenates, or else 1; the authors use four layers
            of RoBERTa.
        ode_steps: steps of the solver; 0 removes the ODE.
        solver: "rk4" or "euler".
        horizon: time at which the ODE's state is read.
        restart: whether the ODE is pulled back towards its initial state.
        relations: whether the ODE's graph distinguishes the same speaker from others and past from future.
        dynamic: whether the parameters of the map after the ODE depend on the "dialogue" or also on the "utterance";
            with "none" there is no such map.
        boxes: number of matrices that the map is a mixture of; 1 makes it static.
        temperature: of the softmax over the mixture weights.
        readout: "both" sums the logits of the modalities' heads and of the fused one; "fused" and "modalities" use only
            one kind.
    """

    name: str = "df-gcn"
    variant: str = setting(RECONSTRUCTION, choices=(RECONSTRUCTION, *VARIANTS))
    hidden: int = setting(512, least=2)
    heads: int = setting(8, least=1)
    window: int = setting(10, least=0)
    dropout: float = setting(0.5, least=0, below=1)
    graph_dropout: float = setting(0.2, least=0, below=1)
    text_layers: int | None = setting(None, least=1)
    ode_steps: int = setting(4, least=0, most=1000)
    solver: str = setting("rk4", choices=SOLVERS)
    horizon: float = setting(1.0, above=0)
    restart: bool = True
    relations: bool = True
    dynamic: str = setting("utterance", choices=("utterance", "dialogue", "none"))
    boxes: int = setting(8, least=1)
    temperature: float = setting(1.0, above=0)
    readout: str = setting("both", choices=("both", "fused", "modalities"))

    def check(self, where: str) -> None:
        """Raises a UserError if settings contradict each other."""
        check_heads(where, self.hidden, self.heads)
