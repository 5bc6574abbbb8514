"""Speakers' appearances and emotions' expressions of the demo corpus. Both are plain numbers; `faces` draws them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np

from .script import SPEAKERS, stream


@dataclass
class Expression:
    """The action of the facial muscles: 0 at rest, about 1 at the extreme.

    `smile`: mouth corners up (negative: down); `wide`: mouth; `open`: lips apart; `square`: shape of the opening;
    `teeth`: how far they are bared; `lip`: upper lip raised; `brow`: brows up (negative: down); `slant`: inner ends up
    (negative: down); `eyes`: lids apart (negative: closing); `squint`: lower lids up; `wrinkle`: on the nose; `fold`:
    from nose to mouth; `frown`: between the brows; `look`: eyes down; `nod`: head down; `tilt`: head to one side.
    """

    smile: float = 0.0
    wide: float = 0.0
    open: float = 0.0
    square: float = 0.0
    teeth: float = 0.0
    lip: float = 0.0
    brow: float = 0.0
    slant: float = 0.0
    eyes: float = 0.0
    squint: float = 0.0
    wrinkle: float = 0.0
    fold: float = 0.0
    frown: float = 0.0
    look: float = 0.0
    nod: float = 0.0
    tilt: float = 0.0


EXPRESSIONS = {
    "neutral": Expression(),
    "surprise": Expression(open=0.75, wide=-0.55, brow=1.0, slant=0.1, eyes=0.9, nod=-0.3),
    "fear": Expression(
        smile=-0.45, wide=0.55, open=0.35, square=0.7, teeth=0.7, brow=0.65, slant=0.9, eyes=0.75, frown=0.5, nod=-0.1
    ),
    "sadness": Expression(
        smile=-1.0, wide=-0.15, brow=0.1, slant=1.1, eyes=-0.5, frown=0.4, look=0.9, nod=0.6, tilt=0.6
    ),
    "joy": Expression(smile=1.1, wide=0.75, open=0.25, teeth=1.0, brow=0.2, eyes=-0.15, squint=0.7, fold=1.0),
    "disgust": Expression(
        smile=-0.5,
        wide=-0.1,
        open=0.12,
        teeth=0.5,
        lip=1.0,
        brow=-0.55,
        slant=-0.3,
        eyes=-0.45,
        squint=0.8,
        wrinkle=1.0,
        fold=0.9,
        nod=-0.4,
        tilt=-0.5,
    ),
    "anger": Expression(
        smile=-0.35,
        wide=0.3,
        open=0.25,
        square=1.0,
        teeth=1.0,
        brow=-0.9,
        slant=-1.0,
        eyes=-0.05,
        squint=0.4,
        frown=1.0,
        wrinkle=0.2,
        nod=0.4,
    ),
}
EXPRESSION_FIELDS = tuple(field.name for field in fields(Expression))


@dataclass(frozen=True)
class Look:
    """The appearance of a speaker. Colours are BGR, 0 to 255; lengths are in units of the head."""

    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]
    lips: tuple[float, float, float]
    shirt: tuple[float, float, float]
    wall: tuple[float, float, float]
    long_hair: bool
    hairline: float
    parting: float
    width: float
    jaw: float
    eye_gap: float
    eye_size: float
    brow_weight: float
    nose: float
    mouth: float
    light: float


_SKINS = ((150, 178, 222), (118, 152, 205), (92, 126, 182), (168, 190, 232), (132, 168, 216), (74, 104, 158))
_HAIRS = ((28, 34, 44), (40, 62, 104), (62, 112, 158), (22, 24, 28), (30, 44, 84), (16, 18, 24))
_WALLS = ((150, 140, 120), (110, 130, 150), (140, 150, 130), (120, 110, 130), (160, 160, 165), (100, 120, 115))
_SHIRTS = ((120, 70, 50), (60, 60, 140), (70, 110, 70), (150, 130, 110), (50, 50, 60), (130, 90, 120))
_IRISES = ((60, 80, 100), (120, 100, 60), (40, 50, 70), (130, 110, 70), (70, 100, 80), (30, 40, 60))


@functools.lru_cache
def speaker_look(seed: int, speaker: str) -> Look:
    """A speaker's look; colours are assigned such that no two speakers share any."""
    own, deal = stream(seed, "look", speaker), stream(seed, "colours")
    place = SPEAKERS.index(speaker)
    skin, hair, wall, shirt, iris = (
        colours[deal.permutation(len(colours))[place]] for colours in (_SKINS, _HAIRS, _WALLS, _SHIRTS, _IRISES)
    )
    lips = np.array(skin) * (0.72, 0.66, 0.90) + (8, 0, 8)
    return Look(
        skin,
        hair,
        iris,
        tuple(lips),
        shirt,
        wall,
        long_hair=place % 2 == 0,
        hairline=own.uniform(-0.66, -0.56),
        parting=own.uniform(-0.5, 0.5),
        width=own.uniform(0.70, 0.78),
        jaw=own.uniform(2.1, 3.0),
        eye_gap=own.uniform(0.31, 0.345),
        eye_size=own.uniform(0.15, 0.17),
        brow_weight=own.uniform(0.045, 0.065),
        nose=own.uniform(0.105, 0.135),
        mouth=own.uniform(0.23, 0.27),
        light=own.choice([-1.0, 1.0]),
    )
