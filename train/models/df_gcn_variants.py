"""The authors' code of DF-GCN with its bugs and without them, switch by switch.

The variant "reconstruction" is not of this family: it follows the paper's abstract, and nothing here concerns it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Switches:
    """What a variant does that the authors cannot have meant.

    Attributes:
        padding: dialogues are padded with zeros to the batch's longest; that counts in the statistics of the text's batch
            norm and in the mean that gives the global vector, so that results depend on the other dialogues of a batch.
            Otherwise neither sees any padding.
        text_as_speaker: the graphs are built from the text's vectors (the fourth RoBERTa layer, which stands where they
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
