"""DialogueRNN (arXiv 1811.00405, AAAI 2019), following its released bidirectional model with attention (BiModel).

A recurrence in both directions over each dialogue (`erc_toolkit.train.layers.sequences.dialogue_rnn`), attention of
each emotion state to all those of its dialogue, a hidden layer and an output layer. The paper's model uses text alone
on IEMOCAP and text and audio on MELD; here any modalities are concatenated, as in their scripts, with zeros for absent
ones.

Their attention gives padding a score of 0, takes the softmax and then renormalises over the utterances. That is the
softmax over the utterances that is used here (theirs divides 0 by 0 if all scores are very negative).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...data.batch import Batch
from ...layers.dropout import Dropout
from ...layers.sequences.dialogue_rnn import DialogueRecurrence
from ...layers.sequences.encoder import WholeDialogueAttention
from ...settings import setting
from ..base import Model, ModelInfo, ModelOutput


@dataclass
class Settings:
    """Section `model`. The defaults are those of the authors' script for IEMOCAP.

    Attributes:
        dialogue: width of the dialogue's state, their D_g.
        party: width of each party's state, D_p.
        emotion: width of the emotion's state in each direction, D_e.
        hidden: width of the hidden layer, 2 D_h.
        context: how past states of the dialogue are weighted: "general" or "simple", see `DialogueRecurrence`.
        listener: whether the states of parties that do not speak are updated too.
        attention: whether emotion states attend to each other before the hidden layer.
        recurrent_dropout: on every state of the recurrence.
        emotion_dropout: on the emotion states after the recurrence; in their code `dropout` + 0.15.
        dropout: after the hidden layer.
    """

    name: str = "dialoguernn"
    dialogue: int = setting(500, least=1)
    party: int = setting(500, least=1)
    emotion: int = setting(300, least=1)
    hidden: int = setting(600, least=1)
    context: str = setting("general", choices=("general", "simple"))
    listener: bool = False
    attention: bool = True
    recurrent_dropout: float = setting(0.1, least=0, below=1)
    emotion_dropout: float = setting(0.25, least=0, below=1)
    dropout: float = setting(0.1, least=0, below=1)


class DialogueRNN(Model[Settings]):
    """Bidirectional DialogueRNN with emotion attention."""

    speaker_use = "identity"
    Settings = Settings
    about = ModelInfo("DialogueRNN", "arXiv 1811.00405, AAAI 2019", "their code")

    def build(self) -> None:
        settings = self.settings
        self.recurrence = DialogueRecurrence(
            1,
            sum(self.dims.values()),
            settings.dialogue,
            settings.party,
            settings.emotion,
            self.speakers,
            settings.context,
            settings.listener,
            rate=settings.recurrent_dropout,
        )
        width = 2 * settings.emotion
        self.query = nn.Linear(width, width) if settings.attention else None
        self.hidden = nn.Linear(width, settings.hidden)
        self.output = nn.Linear(settings.hidden, self.classes)
        self.emotion_dropout, self.dropout = Dropout(settings.emotion_dropout), Dropout(settings.dropout)

    def forward(self, batch: Batch, epoch: int = 0) -> ModelOutput:
        """Logits of a batch."""
        x = self.concatenated(batch)
        states = self.recurrence(x[None], batch.people, batch.offsets, int(batch.host_people.max()) + 1)
        emotions = self.emotion_dropout(states[0])
        if self.query is not None:
            # Their scores are unscaled products; the kernel divides by the square root of the width.
            query = self.query(emotions) * emotions.shape[-1] ** 0.5
            every = torch.ones_like(batch.dialogue, dtype=torch.bool)
            dialogues = WholeDialogueAttention(batch.packing)
            emotions = dialogues.attend(query, emotions.to(query.dtype), emotions.to(query.dtype), every, 1, 0.0)
        return ModelOutput(self.output(self.dropout(torch.relu(self.hidden(emotions)))))
