"""Instructions around an utterance, with the dialogue so far, for text models that were trained to follow them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....toolkit.base.errors import UserError
from ....toolkit.base.reading.texts import read_text
from ..base import Turn

# The templates that come with the toolkit; {described} is empty unless a sentence about the voice is asked for.
TEMPLATES = {
    "emotion": "Read this conversation.\n{context}\n{speaker}: {text}\n{described}\n"
    "In one word, the emotion that {speaker} shows in the last turn is:",
}
_PLACES = ("context", "speaker", "text", "described", "labels")
_PLACE = re.compile("{(" + "|".join(_PLACES) + ")}")


@dataclass(frozen=True)
class Prompt:
    """A template with {context}, {speaker} and {text}, and if wanted {described} and {labels}.

    Attributes:
        name: of the template, or of its file.
        template: the text.
    """

    name: str
    template: str

    @classmethod
    def load(cls, name_or_file: str) -> Prompt:
        """One of `TEMPLATES`, or the template in a text file.

        Raises:
            UserError: there is none, or it does not contain {text}.
        """
        if name_or_file in TEMPLATES:
            return cls(name_or_file, TEMPLATES[name_or_file])
        path = Path(name_or_file)
        if not path.is_file():
            known = ", ".join(TEMPLATES)
            raise UserError(f"--text-prompt {name_or_file}: no such file; choose {known}, or give a file with {{text}}")
        template = read_text(path, "prompt")[0].rstrip("\n")
        prompt = cls(path.name, template)
        if not prompt.wants("text"):
            raise UserError(f"--text-prompt {path}: the file does not contain {{text}}, the place of the utterance")
        return prompt

    @property
    def sha256(self) -> str:
        """Of the template, for the store."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def fill(self, turn: Turn, context: Sequence[str], labels: Sequence[str] = ()) -> str:
        """The text for a model.

        Args:
            turn: the utterance.
            context: the turns before it that fit, oldest first, each "speaker: text".
            labels: the classes to choose from.
        """
        return self.place(turn, context, labels)[0]

    def place(self, turn: Turn, context: Sequence[str], labels: Sequence[str] = ()) -> tuple[str, int, int]:
        """Like `fill`, with the place of the utterance in the text: its first character, and the one after its last.

        It is the last place of a template that has several.
        """
        values = {
            "context": "\n".join(context),
            "speaker": turn.speaker or "the speaker",
            "text": turn.text.strip(),
            "described": turn.described,
            "labels": ", ".join(labels),
        }
        text, start, end = "", 0, 0
        # Every other piece is the name of a place. In one pass, so that braces in a transcript stay what they are.
        for number, piece in enumerate(_PLACE.split(self.template)):
            # Places that are empty leave no empty lines.
            said = re.sub(r"\n{2,}", "\n", values[piece] if number % 2 else piece)
            said = said.lstrip("\n") if text.endswith("\n") else said
            if number % 2 and piece == "text":
                start, end = len(text), len(text) + len(said)
            text += said
        return text, start, end

    def wants(self, place: str) -> bool:
        """Whether the template has a place, such as "context"."""
        return f"{{{place}}}" in self.template
