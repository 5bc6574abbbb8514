"""How a run chooses the speaker among several faces, by its options and by what is on the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....toolkit.base.errors import UserError
from ...encoders.selection import Options
from ...faces.choice import SPEAKS, Choosing
from ...faces.speaking import RULE

# The options that this depends on.
SPEAKER_OPTIONS = ("speaker_choice", "lips_model", "off_screen", "when_unsure", "least_confidence")


@dataclass(frozen=True)
class ChoiceOfSpeaker:
    """The choice of a run.

    Attributes:
        by: "lips" or "motion", what is really used.
        choosing: for the workers.
        sha256: of LR-ASD's weights; empty for "motion".
        line: about it, for the user.
    """

    by: str
    choosing: Choosing
    sha256: str
    line: str

    def parameters(self) -> dict[str, Any]:
        """What the store records."""
        choosing = self.choosing
        motion = f"the track with the highest score: {RULE}; within the manifest's region where it gives one"
        found: dict[str, Any] = {"speaker": motion}
        if self.by == "lips":
            from ...faces.lips.scoring import RULE as BY_LIPS

            found = {
                "speaker": f"among at least {choosing.least_faces} the track with the greatest evidence: {BY_LIPS}; "
                f"otherwise, or without audio, {motion}",
                "lips_model_sha256": self.sha256,
                "off_screen": f"{choosing.off_screen}: no score above {SPEAKS:g}",
            }
        if choosing.when_unsure == "mask":
            found["least_confidence"] = choosing.least_confidence
        return found


def choice_of_speaker(options: Options) -> ChoiceOfSpeaker:
    """The choice that the options ask for.

    Raises:
        UserError: LR-ASD's weights are asked for and not there, or hold something else; or they are given and not used.
    """
    from ...faces.lips.scoring import scorer
    from ...faces.lips.weights import lips_model

    if options.speaker_choice == "motion" and options.lips_model is not None:
        raise UserError("--lips-model: --speaker-choice motion does not use it; leave one of them out")
    rules = (options.off_screen, options.when_unsure, options.least_confidence)
    reason = ""
    if options.speaker_choice != "motion":
        try:
            path, sha256 = lips_model(options.lips_model)
        except UserError as error:
            if options.speaker_choice == "lips" or options.lips_model is not None:
                raise
            reason = f", which finds it about as often as a coin; {error.message}"
        else:
            scorer(path)  # a file of other weights is reported before the long work
            line = f"lips, by LR-ASD (file {path.name}; sha256 {sha256[:12]}…)"
            return ChoiceOfSpeaker("lips", Choosing(path, *rules), sha256, line)
    return ChoiceOfSpeaker("motion", Choosing(None, *rules), "", f"motion of the mouth{reason}")
