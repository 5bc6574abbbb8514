"""The two variants of AMB-DSGDN and the switches in which they differ.

`released` follows the authors' public code, `paper` the equations of arXiv 2603.10043. What both leave to a recipe
(window, epochs, warm-up, class weights) is a setting, not a switch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Switches:
    """What a variant of AMB-DSGDN does.

    Attributes:
        gates: a sigmoid gate ends the audio and the visual stream; it is not in the equations.
        normalised_attention: LayerNorm, the factor 1 - lambda_init and GELU follow equation 17 in each attention layer,
            and another GELU follows the output layer; they are not in the equations.
        dropout_everywhere: dropout also on a graph block's input and on attention weights; the paper mentions it only
            between the concatenated heads and the output layer.
        f1_balance: p_m is the usual support-weighted F1; equation 19 is a weighted mean of precision times recall.
        clipped_ratios: the ReLU of the code works in place, so equation 23 averages max(r, 0) in place of r. A bug,
            kept because the published figures were made with it.
        guarded_ratios: a modality is dropped only if its mean ratio is above 0, and one whose performance is zero is
            not a reference; equations 20 to 24 have neither condition. With `clipped_ratios` the weakest modality is
            never dropped, which alone keeps the authors' code from crashing on dialogues that lost all modalities.
        loss_through_weight: gradients also pass through alpha_m = L_m / 10 of equation 33, which doubles the gradient
            of a modality's loss; as a weight in the paper's sense alpha_m is a constant.
    """

    gates: bool
    normalised_attention: bool
    dropout_everywhere: bool
    f1_balance: bool
    clipped_ratios: bool
    guarded_ratios: bool
    loss_through_weight: bool


VARIANTS = {
    "released": Switches(
        gates=True,
        normalised_attention=True,
        dropout_everywhere=True,
        f1_balance=True,
        clipped_ratios=True,
        guarded_ratios=True,
        loss_through_weight=True,
    ),
    "paper": Switches(
        gates=False,
        normalised_attention=False,
        dropout_everywhere=False,
        f1_balance=False,
        clipped_ratios=False,
        guarded_ratios=False,
        loss_through_weight=False,
    ),
}
