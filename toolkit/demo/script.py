"""The script of the demo corpus: who says what, with which emotion, and what words, voice and face display of it.

The emotions of a dialogue form a Markov chain: the next one depends on the same speaker's last emotion (inertia), on
the previous speaker's (response) and on a base rate. What words, voice and face display is then drawn independently
for each, see `displayed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
MODALITIES = ("words", "voice", "face")
SPLITS = ("train", "dev", "test")
FPS = 10

# The probability that a modality displays the true emotion. Otherwise it displays, with equal probability, neutral or
# one of the emotions below; these differ between modalities, so that one modality can resolve another's ambiguity.
RELIABILITY = {"words": 0.68, "voice": 0.72, "face": 0.72}
CONFUSIONS = {
    "words": {
        "neutral": ("joy", "sadness", "surprise"),
        "surprise": ("joy", "anger"),
        "fear": ("sadness", "disgust"),
        "sadness": ("fear", "anger"),
        "joy": ("surprise", "sadness"),
        "disgust": ("anger", "fear"),
        "anger": ("disgust", "sadness"),
    },
    "voice": {
        "neutral": ("disgust", "sadness", "joy"),
        "surprise": ("joy", "anger"),
        "fear": ("surprise", "sadness"),
        "sadness": ("disgust", "fear"),
        "joy": ("surprise", "anger"),
        "disgust": ("sadness", "anger"),
        "anger": ("joy", "surprise"),
    },
    "face": {
        "neutral": ("sadness", "anger", "joy"),
        "surprise": ("fear", "joy"),
        "fear": ("surprise", "sadness"),
        "sadness": ("disgust", "fear"),
        "joy": ("surprise", "disgust"),
        "disgust": ("anger", "joy"),
        "anger": ("disgust", "sadness"),
    },
}

_BASE = np.array([0.30, 0.14, 0.10, 0.12, 0.15, 0.08, 0.11])
_OWN, _OTHER = 0.35, 0.25
# Rows: the other speaker's emotion; columns: the one it evokes, both in the order of EMOTIONS.
_RESPONSE = np.array(
    [
        [0.50, 0.10, 0.05, 0.10, 0.15, 0.05, 0.05],
        [0.20, 0.35, 0.15, 0.00, 0.25, 0.00, 0.05],
        [0.20, 0.15, 0.40, 0.15, 0.00, 0.05, 0.05],
        [0.30, 0.05, 0.05, 0.45, 0.00, 0.05, 0.10],
        [0.15, 0.20, 0.00, 0.05, 0.55, 0.00, 0.05],
        [0.15, 0.15, 0.10, 0.05, 0.05, 0.40, 0.10],
        [0.15, 0.05, 0.15, 0.15, 0.00, 0.10, 0.40],
    ]
)

SPEAKERS = ("Alma", "Boris", "Clara", "Duncan", "Edda", "Farid")

_TOPICS = (
    "the letter",
    "the new flat",
    "the dinner",
    "the party",
    "that old car",
    "the concert",
    "your plan",
    "the cake",
    "this place",
    "the trip",
    "the story",
    "the gift",
    "the meeting",
    "the phone call",
    "the garden",
    "this song",
)
# {t} is a topic, {T} the same capitalized. Every emotion has some questions.
_LINES = {
    "neutral": (
        "{T} is on Thursday",
        "I was thinking about {t}",
        "We can talk about {t} later",
        "He asked me about {t}",
        "They moved {t} to the afternoon",
        "I left my keys by the door",
        "It depends on {t}",
        "I saw {t} this morning",
        "She is at the office until five",
        "We should take the bus",
        "{T} is near the station",
        "I think {t} is on the list",
        "There is tea in the kitchen",
        "Did you hear about {t}?",
        "What time is {t}?",
        "Can you tell me about {t}?",
    ),
    "surprise": (
        "I did not expect {t}",
        "Wow, {t} came out of nowhere",
        "I cannot believe {t}",
        "I had no idea about {t}",
        "{T} took me by surprise",
        "I never saw {t} coming",
        "Wow, that is unbelievable",
        "I am speechless about {t}",
        "That was so unexpected",
        "I am amazed, look at {t}",
        "Wait, you really did all that?",
        "No way, {t} is today?",
        "Wait, what happened to {t}?",
    ),
    "fear": (
        "I am so scared of {t}",
        "{T} frightens me",
        "I am worried about {t}",
        "I am afraid of {t}",
        "I am terrified, stay with me",
        "My hands shake because of {t}",
        "Please do not leave me alone",
        "{T} is too dangerous",
        "I am afraid something bad will happen",
        "I am scared to look at {t}",
        "I get nervous, something is wrong",
        "What if {t} goes wrong?",
        "Are we in danger?",
    ),
    "sadness": (
        "I miss {t} so much",
        "I feel so sad about {t}",
        "I cried all night over {t}",
        "{T} broke my heart",
        "I am sorry that {t} is over",
        "I feel lonely without {t}",
        "Nothing is the same without him",
        "I lost all hope",
        "I am so unhappy about {t}",
        "It hurts to think of {t}",
        "I cried, I miss her",
        "Why do I feel so alone?",
        "Why did we lose {t}?",
    ),
    "joy": (
        "I am so happy about {t}",
        "{T} was wonderful",
        "I love {t}",
        "{T} makes me smile",
        "I love it, that is great",
        "This is the best news",
        "{T} is so much fun",
        "I am thrilled about {t}",
        "What a beautiful day",
        "I am glad, {t} is perfect",
        "We won, it feels wonderful",
        "Is it not wonderful?",
        "Do you love {t} as I do?",
    ),
    "disgust": (
        "{T} is disgusting",
        "{T} makes me sick",
        "{T} smells awful",
        "Ugh, keep {t} away from me",
        "That is so gross",
        "{T} is revolting",
        "I feel sick from {t}",
        "Ugh, there is a nasty stain",
        "It smells so rotten here",
        "I would never touch {t}, ugh",
        "That is a filthy habit",
        "Ugh, what is that smell?",
        "How can you touch that, is it not gross?",
    ),
    "anger": (
        "I am furious about {t}",
        "You ruined {t}",
        "Stop talking about {t}",
        "I hate {t}",
        "{T} makes me so angry",
        "You lied to me about {t}",
        "I have had enough of {t}",
        "Stop it, leave me out of this",
        "That is not fair",
        "It is all your fault",
        "I hate how you treat me",
        "How dare you touch {t}?",
        "Why do you always ruin {t}?",
    ),
}
_OPENERS = ("", "", "", "Well, ", "You know, ", "Look, ", "Oh, ", "Hey, ", "So, ")
# Punctuation is independent of the emotion; questions keep their question mark.
_ENDS, _END_RATES = (".", "!", "..."), (0.7, 0.2, 0.1)

# Syllables per second of a neutral voice, and the shortest and longest clip in frames.
_RATE = 6.0
_FEWEST, _MOST = FPS, 2 * FPS
# Speech rate of the emotion displayed by the voice relative to neutral; it determines the length of the clip.
_TEMPO = {
    "neutral": 1.0,
    "surprise": 0.95,
    "fear": 1.25,
    "sadness": 0.75,
    "joy": 1.1,
    "disgust": 0.85,
    "anger": 1.15,
}


@dataclass(frozen=True)
class Line:
    """One utterance of the script.

    Attributes:
        split: "train", "dev" or "test".
        dialogue: counted from 0 in its split.
        utterance: counted from 0 in its dialogue.
        speaker: one of SPEAKERS.
        emotion: the true emotion, one of EMOTIONS.
        shown: modality to the emotion it displays.
        sentiment: "neutral", "positive" or "negative"; surprise may be either of the last two.
        text: the transcript.
        frames: length of the clip in frames of 1 / FPS seconds.
        tempo: speech rate relative to a neutral voice, which determines the length.
    """

    split: str
    dialogue: int
    utterance: int
    speaker: str
    emotion: str
    shown: dict[str, str]
    sentiment: str
    text: str
    frames: int
    tempo: float

    @property
    def name(self) -> str:
        """The clip's name in MELD, without suffix."""
        return f"dia{self.dialogue}_utt{self.utterance}"

    @property
    def seconds(self) -> float:
        return self.frames / FPS


def stream(seed: int, *key: int | str) -> np.random.Generator:
    """A random generator that depends only on the seed and the key, not on earlier draws or the process."""
    words = [int.from_bytes(part.encode(), "little") if isinstance(part, str) else part for part in key]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(words)))


def write_dialogue(seed: int, split: str, dialogue: int, cast: Sequence[str] = ()) -> list[Line]:
    """The lines of one dialogue: 5 to 12 utterances by `cast`, or by 2 to 4 speakers. Depends only on the arguments."""
    rng = stream(seed, "script", split, dialogue)
    cast = list(cast) or rng.choice(SPEAKERS, size=rng.choice([2, 3, 4], p=[0.5, 0.3, 0.2]), replace=False).tolist()
    lines: list[Line] = []
    felt: dict[str, int] = {}
    for utterance in range(rng.integers(5, 13)):
        last = lines[-1].speaker if lines else None
        others = [name for name in cast if name != last]
        speaker = last if last and rng.random() < 0.1 else others[rng.integers(len(others))]
        other = felt.get(last) if last != speaker else None
        felt[speaker] = int(rng.choice(len(EMOTIONS), p=_next_emotion(felt.get(speaker), other)))
        emotion = EMOTIONS[felt[speaker]]
        shown = {modality: displayed(modality, emotion, rng) for modality in MODALITIES}
        text = _sentence(shown["words"], rng)
        tempo = _TEMPO[shown["voice"]] * float(np.exp(rng.normal(0, 0.06)))
        seconds = syllables(text) / (_RATE * tempo) + 0.25
        frames = int(np.clip(round(seconds * FPS), _FEWEST, _MOST))
        lines.append(
            Line(split, dialogue, utterance, speaker, emotion, shown, _sentiment(emotion, rng), text, frames, tempo)
        )
    return lines


def displayed(modality: str, emotion: str, rng: np.random.Generator) -> str:
    """The emotion that a modality displays: the true one with its reliability, otherwise neutral or a confusion."""
    if rng.random() < RELIABILITY[modality]:
        return emotion
    confusions = CONFUSIONS[modality][emotion]
    if emotion != "neutral" and rng.random() < 0.5:
        return "neutral"
    return confusions[rng.integers(len(confusions))]


def syllables(text: str) -> int:
    """An estimate of the number of syllables of an English sentence: groups of vowels, without a silent final e."""
    return sum(
        max(1, len(re.findall(r"[aeiouy]+", re.sub(r"e\b", "", word)))) for word in re.findall(r"[a-z]+", text.lower())
    )


def _next_emotion(own: int | None, other: int | None) -> np.ndarray:
    """Distribution (7,) of a speaker's next emotion, given the speaker's own last one and the other's, if any."""
    probabilities = _BASE.copy()
    if own is not None:
        probabilities = (1 - _OWN) * probabilities + _OWN * np.eye(len(EMOTIONS))[own]
    if other is not None:
        probabilities = (1 - _OTHER) * probabilities + _OTHER * _RESPONSE[other]
    return probabilities / probabilities.sum()


def _sentence(emotion: str, rng: np.random.Generator) -> str:
    template = _LINES[emotion][rng.integers(len(_LINES[emotion]))]
    topic = _TOPICS[rng.integers(len(_TOPICS))]
    text = template.format(t=topic, T=topic[0].upper() + topic[1:])
    opener = _OPENERS[rng.integers(len(_OPENERS))]
    if opener:
        text = opener + (text if re.match(r"(I|Thursday)\b", text) else text[0].lower() + text[1:])
    end = rng.choice(_ENDS, p=_END_RATES)
    return text if text.endswith("?") else text + str(end)


def _sentiment(emotion: str, rng: np.random.Generator) -> str:
    positive = emotion == "joy" or (emotion == "surprise" and rng.random() < 0.5)
    return "neutral" if emotion == "neutral" else "positive" if positive else "negative"
