"""Talking heads of the demo corpus, drawn with numpy and OpenCV.

A head is drawn in its own plane at twice the resolution of the frame: a shaded base once per clip (`_head`), then
brows, eyes, mouth and folds for each frame (`_features`). A single remapping rotates, scales and moves it into the
frame and lowers the jaw. Lengths in the head's plane are in units of U pixels; x points right, y down, (0, 0) is the
bridge of the nose, and the chin is near y = 1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import cv2
import numpy as np

from .script import FPS, SPEAKERS, stream

WIDTH, HEIGHT = 320, 240
U = 128
_CX, _CY = 184, 190
_SHAPE = (372, 368)
# Pixels of the frame per unit of the head.
_SCALE = 72.0


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
_NAMES = tuple(field.name for field in fields(Expression))


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


def render(look: Look, emotion: str, loudness: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Renders one clip.

    Args:
        look: the speaker's look.
        emotion: the emotion that the face displays.
        loudness: loudness of the voice in each frame, float (frames,), 0 to 1; it opens the mouth.
        rng: draws the intensity and the movement of the head.

    Returns:
        Frames, uint8 (frames, HEIGHT, WIDTH, 3) BGR; and boxes, float32 (frames, 4): left, top, width and height of the
        face from forehead to chin, in pixels.
    """
    count = len(loudness)
    time = np.arange(count) / FPS
    peak = _drawn_expression(emotion, rng)
    rise = np.clip(0.65 + 0.5 * time / 0.5, 0, 1)
    blinks = _blinks(count, rng)
    turn, x, y, roll = (_sway(time, rng) for _ in range(4))
    size = rng.uniform(0.97, 1.06)
    middle = np.array([WIDTH / 2 + rng.uniform(-22, 22), 108 + rng.uniform(-5, 5)])
    head, background = _head(look, rng), _background(look, middle, rng)
    grain = rng.normal(0, 3.0, (HEIGHT + 16, WIDTH + 16, 1)).astype(np.float32)
    frames, boxes = np.empty((count, HEIGHT, WIDTH, 3), np.uint8), np.empty((count, 4), np.float32)
    for k in range(count):
        now = Expression(**dict(zip(_NAMES, peak * rise[k], strict=True)))
        now.open += 0.42 * loudness[k]
        now.eyes = max(-1.2, now.eyes) - (1.9 + max(0.0, now.eyes)) * blinks[k]
        painted = head.copy()
        _features(painted, look, now)
        # Inverse of rotation, scaling and translation.
        angle = np.deg2rad(6.0 * now.tilt + 2.5 * roll[k])
        centre = middle + (5 * x[k], 3 * y[k] + 6 * now.nod)
        frames[k], boxes[k] = _place(painted, background, look, centre, size * _SCALE, angle, 0.05 * turn[k], now)
        shift = rng.integers(0, 16, 2)
        noisy = frames[k] + grain[shift[0] : shift[0] + HEIGHT, shift[1] : shift[1] + WIDTH]
        frames[k] = np.clip(noisy, 0, 255).astype(np.uint8)
    return frames, boxes


def _drawn_expression(emotion: str, rng: np.random.Generator) -> np.ndarray:
    """An emotion's expression with random intensity and noise, in the order of _NAMES."""
    values = np.array([getattr(EXPRESSIONS[emotion], name) for name in _NAMES])
    return values * rng.uniform(0.75, 1.1) + rng.normal(0, 0.08, len(values)) * (np.array(_NAMES) != "open")


def _blinks(count: int, rng: np.random.Generator) -> np.ndarray:
    """How far the lids are closed in each frame, 0 to 1: at most one blink, of three frames."""
    closed = np.zeros(count + 4)
    if rng.random() < 0.6:
        start = rng.integers(2, count)
        closed[start : start + 3] = (0.6, 1.0, 0.5)
    return closed[:count]


def _sway(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slow movement within about -1 and 1."""
    slow, fast = rng.uniform(0.25, 0.6), rng.uniform(0.8, 1.6)
    return 0.7 * np.sin(2 * np.pi * (slow * time + rng.random())) + 0.3 * np.sin(
        2 * np.pi * (fast * time + rng.random())
    )


@functools.cache
def _plane() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x, y of the head's plane at each of its pixels, float32 (height, width)."""
    rows, columns = np.mgrid[: _SHAPE[0], : _SHAPE[1]].astype(np.float32)
    return (columns - _CX) / U, (rows - _CY) / U


def _blob(x: float, y: float, width: float, height: float) -> np.ndarray:
    """A soft spot around (x, y), float32 over the head's plane, 1 at its centre."""
    px, py = _plane()
    return np.exp(-0.5 * (((px - x) / width) ** 2 + ((py - y) / height) ** 2))


def _outline(look: Look) -> np.ndarray:
    """Half the width of the face in each row of the plane, float32 (height, 1); 0 above and below the face."""
    y = _plane()[1][:, :1]
    upper = np.sqrt(np.clip(1 - (np.minimum(y, 0) / 1.12) ** 2, 0, 1))
    lower = np.clip(1 - np.clip(y / 1.02, 0, 1) ** look.jaw, 0, 1) ** 0.55
    cheeks = 1 - 0.12 * np.clip(y / 0.9, 0, 1)
    return look.width * np.where(y < 0, upper, lower * cheeks)


@functools.lru_cache(maxsize=16)
def _bare_head(look: Look) -> tuple[np.ndarray, np.ndarray]:
    """The face without brows, eyes and mouth: float32 (height, width, 3), and its coverage float32 (height, width)."""
    x, y = _plane()
    half = _outline(look)
    across = np.clip(x / np.maximum(half, 1e-3), -1.2, 1.2)
    depth = np.sqrt(np.clip(1 - 0.82 * np.clip(across, -1, 1) ** 2 - 0.30 * np.clip(y, -1.2, 1.2) ** 2, 0.02, 1))
    normal = np.stack([0.9 * across, 0.55 * y, depth])
    normal /= np.linalg.norm(normal, axis=0)
    light = np.array([0.38 * look.light, -0.42, 0.82])
    shade = 0.42 + 0.62 * np.clip(np.tensordot(light, normal, 1), 0, 1)
    gap, nose = look.eye_gap, look.nose
    for side in (-1, 1):
        shade -= 0.20 * _blob(side * gap, -0.13, 0.17, 0.085) + 0.10 * _blob(side * 0.13, -0.10, 0.06, 0.10)
        shade += 0.07 * _blob(side * 0.40, 0.20, 0.15, 0.12)
        shade -= 0.24 * _blob(side * nose * 0.62, 0.355, 0.035, 0.024) + 0.05 * _blob(side * 0.52, 0.5, 0.12, 0.2)
        shade -= 0.08 * _blob(side * nose * 1.15, 0.29, 0.03, 0.07)
    shade += 0.13 * _blob(0, 0.08, 0.055, 0.18) + 0.10 * _blob(0.02 * look.light, 0.26, 0.06, 0.05)
    shade -= 0.13 * _blob(-look.light * 0.11, 0.14, 0.045, 0.15) + 0.16 * _blob(0, 0.40, 0.13, 0.03)
    shade += 0.06 * _blob(0, -0.42, 0.34, 0.14) + 0.06 * _blob(0, 0.88, 0.12, 0.06)
    shade -= 0.10 * _blob(0, 0.75, 0.14, 0.035) + 0.04 * _blob(0, 0.46, 0.022, 0.05)
    shade -= 0.25 * np.clip((y - 0.86) / 0.2, 0, 1)
    skin = np.array(look.skin, np.float32) * shade[..., None]
    for side in (-1, 1):
        skin[..., 2] += 9 * _blob(side * 0.42, 0.26, 0.14, 0.12)
    speckle = cv2.GaussianBlur(stream(0, "skin").normal(0, 1, _SHAPE).astype(np.float32), (0, 0), 1.5)
    skin += 8 * speckle[..., None]
    cover = np.clip((half - np.abs(x)) * U / 3 + 0.5, 0, 1) * (np.abs(y - 0) < 1.15)
    ears = [_ear(look, side) for side in (-1, 1)]
    for ear in ears:
        skin = np.where(
            (cover < 0.5)[..., None] & (ear > 0.02)[..., None],
            np.array(look.skin) * 0.72 * (0.7 + 0.3 * ear[..., None]),
            skin,
        )
        cover = np.maximum(cover, ear)
    return skin.astype(np.float32), cover.astype(np.float32)


def _ear(look: Look, side: int) -> np.ndarray:
    x, y = _plane()
    distance = np.hypot((x - side * (look.width + 0.01)) / 0.10, (y - 0.06) / 0.20)
    return np.clip((1 - distance) * 8, 0, 1)


@functools.lru_cache(maxsize=16)
def _haircut(look: Look) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hair: colour float32 (height, width, 3); coverage in front of and behind the face, float32 (height, width)."""
    x, y = _plane()
    strands = stream(1, "hair").normal(0, 1, _SHAPE).astype(np.float32)
    strands = cv2.GaussianBlur(strands, (0, 0), sigmaX=1.2, sigmaY=14) * 5
    sheen = 0.75 + 0.5 * _blob(0.3 * look.light, -0.85, 0.4, 0.16) + 0.16 * strands
    colour = np.array(look.hair, np.float32) * sheen[..., None] + 5
    skull = np.hypot(x / (look.width + 0.12), (y + 0.22) / 1.10)
    outer = np.clip((1 - skull) * 30, 0, 1)
    fringe = look.hairline + 0.55 * np.abs(x - 0.35 * look.parting) ** 2.2 + 0.02 * strands
    above = np.clip((fringe - y) * 22, 0, 1)
    temples = np.clip((np.abs(x) - look.width * 0.90 - 0.10 * np.clip(y + 0.5, 0, 1)) * 25, 0, 1) * np.clip(
        (0.10 - y) * 8, 0, 1
    )
    front = outer * np.maximum(above, temples)
    behind = outer * np.clip((0.3 - y) * 6, 0, 1)
    if look.long_hair:
        fall = look.width + 0.16 + 0.05 * np.sin(2.2 * y) + 0.02 * strands
        strand = np.clip((fall - np.abs(x)) * 20, 0, 1) * (y > -0.3) * np.clip((1.25 - y) * 6, 0, 1)
        behind = np.maximum(behind, strand)
        beside = np.clip((np.abs(x) - look.width * 0.93 - 0.03 * np.sin(3 * y)) * 20, 0, 1) * strand
        front = np.maximum(front, beside)
    return colour, front.astype(np.float32), behind.astype(np.float32)


def _head(look: Look, rng: np.random.Generator) -> np.ndarray:
    """The head without brows, eyes and mouth: uint8 (height, width, 4), BGR premultiplied by coverage, and coverage."""
    skin, cover = _bare_head(look)
    hair, front, behind = _haircut(look)
    behind_face = np.maximum(behind, 0)[..., None]
    colour = hair * 0.7 * behind_face * (1 - cover[..., None]) + skin * cover[..., None]
    shadow = cv2.GaussianBlur(front, (0, 0), 7)[..., None]
    colour = colour * (1 - 0.35 * shadow) * (1 - front[..., None]) + hair * front[..., None]
    alpha = np.maximum(np.maximum(cover, behind), front)
    colour *= rng.uniform(0.93, 1.05)
    return np.clip(np.dstack([colour, alpha * 255]) + 0.5, 0, 255).astype(np.uint8)


def _background(look: Look, middle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wall, neck and shoulders behind the head: float32 (HEIGHT, WIDTH, 3)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    own = stream(0, "wall", *(int(c) for c in look.wall))
    small = own.normal(0, 1, (9, 12)).astype(np.float32)
    clouds = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    plaster = cv2.GaussianBlur(own.normal(0, 1, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2)
    bright = 0.85 + 0.05 * clouds + 0.09 * plaster - 0.25 * look.light * (columns / WIDTH - 0.5)
    image = np.array(look.wall, np.float32) * bright[..., None]
    for _ in range(own.integers(1, 4)):  # blurred pictures on the wall
        left, top = own.integers(0, WIDTH - 50), own.integers(-20, 110)
        colour = own.uniform(40, 190, 3).tolist()
        cv2.rectangle(
            image,
            (int(left), int(top)),
            (int(left + own.integers(20, 70)), int(top + own.integers(25, 80))),
            colour,
            -1,
        )
    image = cv2.GaussianBlur(image, (0, 0), 5) + 3 * plaster[..., None]
    x, y = (columns - middle[0]) / _SCALE, (rows - middle[1]) / _SCALE
    neck_half = 0.40 + 0.5 * np.clip(y - 1.15, 0, 1) ** 2
    neck = np.clip((neck_half - np.abs(x)) * 20, 0, 1) * (y > 0.2)
    tone = 0.78 - 0.34 * np.clip(1.30 - y, 0, 0.6) - 0.25 * (x * -look.light).clip(0, 1)
    image += (np.array(look.skin) * tone[..., None] - image) * neck[..., None]
    shoulders = 1.30 + 0.16 * np.abs(x) ** 1.6 - 0.10 * np.clip(0.55 - np.abs(x), 0, 1) * -3.2
    cloth = np.clip((y - shoulders) * 16, 0, 1)
    weave = 0.85 + 0.10 * np.sin(9 * x + 2 * y) + 0.12 * plaster - 0.2 * (x * -look.light).clip(-0.5, 1)
    image += (np.array(look.shirt) * weave[..., None] - image) * cloth[..., None]
    return np.clip(image * rng.uniform(0.94, 1.06), 0, 255).astype(np.float32)


def _pixels(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) of the head's plane as OpenCV's fixed-point coordinates with 4 fractional bits."""
    return np.round((points * U + (_CX, _CY)) * 16).astype(np.int32)


def _fill(image: np.ndarray, points: np.ndarray, colour: object) -> None:
    cv2.fillPoly(image, [_pixels(points)], colour, cv2.LINE_AA, 4)


def _stroke(image: np.ndarray, points: np.ndarray, colour: object, width: float) -> None:
    cv2.polylines(image, [_pixels(points)], False, colour, max(1, round(width * U)), cv2.LINE_AA, 4)


def _features(head: np.ndarray, look: Look, now: Expression) -> None:
    """Draws folds, brows, eyes and mouth into a head, in place."""
    folds = np.zeros(_SHAPE, np.uint8)
    _folds(folds, look, now)
    folds = cv2.GaussianBlur(folds, (0, 0), 3)
    bgr = cv2.multiply(head[..., :3].copy(), cv2.cvtColor(255 - folds, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    for side in (-1, 1):
        _eye(bgr, look, now, side)
        _brow(bgr, look, now, side)
    _mouth(bgr, look, now)
    head[..., :3] = cv2.GaussianBlur(bgr, (0, 0), 1.1)


def _folds(folds: np.ndarray, look: Look, now: Expression) -> None:
    """Draws the folds of the skin into an image of darkness, 0 to 255."""
    t = np.linspace(0, 1, 9)
    mouth = look.mouth * (1 + 0.25 * now.wide)
    for side in (-1, 1):
        if now.fold > 0.15:
            x = side * (look.nose + 0.03 + (mouth + 0.10 - look.nose) * t + 0.05 * np.sin(np.pi * t))
            y = 0.28 + (0.56 - 0.08 * now.smile - 0.28) * t
            _stroke(folds, np.stack([x, y], 1), int(min(170, 130 * now.fold)), 0.035)
        if now.frown > 0.15:
            x, y = side * (0.055 + 0.01 * t), -0.36 + 0.18 * t
            _stroke(folds, np.stack([x, y], 1), int(min(190, 150 * now.frown)), 0.03)
        if now.squint > 0.15:
            x, y = side * (look.eye_gap - 0.15 + 0.32 * t), -0.02 + 0.07 * np.sin(np.pi * t)
            _stroke(folds, np.stack([x, y], 1), int(min(140, 90 * now.squint)), 0.03)
    for row in range(3):
        if now.wrinkle > 0.15:
            x, y = 0.10 * (2 * t - 1), -0.05 + 0.07 * row + 0.03 * (2 * t - 1) ** 2
            _stroke(folds, np.stack([x, y], 1), int(min(150, 130 * now.wrinkle)), 0.025)
        if now.brow > 0.35:
            x, y = 0.42 * (2 * t - 1), -0.52 - 0.075 * row + 0.03 * (2 * t - 1) ** 2
            _stroke(folds, np.stack([x, y], 1), int(min(90, 80 * now.brow)), 0.02)


def _eye(bgr: np.ndarray, look: Look, now: Expression, side: int) -> None:
    gap, half = look.eye_gap, look.eye_size
    upper = max(0.004, 0.068 * (1 + 0.75 * now.eyes))
    lower = max(0.002, 0.040 * (1 + 0.35 * now.eyes - 0.55 * now.squint))
    t = np.linspace(-1, 1, 13)
    bow = (1 - t**2) ** 0.8
    inner = 0.03 * max(-1.0, min(1.0, now.slant)) * -t * 0.6
    top = np.stack([side * gap + half * t, -0.10 - upper * bow + inner * side * -1], 1)
    bottom = np.stack([side * gap + half * t, -0.10 + lower * bow + inner * side * -1], 1)
    lens = np.concatenate([top, bottom[::-1]])
    crease = top - (0, 0.045 + 0.012 * now.eyes)
    dark = tuple(c * 0.38 for c in look.skin)
    _stroke(bgr, crease[1:-1], tuple(c * 0.62 for c in look.skin), 0.018)
    corner = (
        (_pixels(np.array([[side * gap - half - 0.03, -0.30]]))[0] / 16).astype(int),
        (_pixels(np.array([[side * gap + half + 0.03, 0.06]]))[0] / 16).astype(int),
    )
    (left, above), (right, below) = corner
    patch = bgr[above:below, left:right].copy()
    mask = np.zeros(patch.shape[:2], np.uint8)
    offset = np.array([left, above]) / U - np.array([_CX, _CY]) / U
    shifted = lens - offset - np.array([_CX, _CY]) / U
    _fill(mask, shifted, 255)
    ball = np.empty_like(patch)
    ball[:] = (205, 210, 214)
    centre = np.array([[side * gap, -0.115 + 0.030 * now.look]]) - offset - np.array([_CX, _CY]) / U
    point = tuple(int(v) for v in _pixels(centre)[0])
    cv2.circle(ball, point, int(0.074 * U * 16), tuple(c * 0.5 for c in look.iris), -1, cv2.LINE_AA, 4)
    cv2.circle(ball, point, int(0.062 * U * 16), look.iris, -1, cv2.LINE_AA, 4)
    cv2.circle(ball, point, int(0.032 * U * 16), (8, 8, 8), -1, cv2.LINE_AA, 4)
    glint = (point[0] + int(look.light * 0.022 * U * 16), point[1] - int(0.024 * U * 16))
    cv2.circle(ball, glint, int(0.012 * U * 16), (245, 245, 245), -1, cv2.LINE_AA, 4)
    weight = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None].astype(np.float32) / 255
    bgr[above:below, left:right] = (ball * weight + patch * (1 - weight)).astype(np.uint8)
    _stroke(bgr, top, dark, 0.030)
    _stroke(bgr, bottom[1:-1], tuple(c * 0.58 for c in look.skin), 0.012)


def _brow(bgr: np.ndarray, look: Look, now: Expression, side: int) -> None:
    t = np.linspace(0, 1, 9)  # from the inner end to the outer
    x = side * (look.eye_gap - 0.185 - 0.02 * min(0.0, now.slant) * -1 + 0.37 * t)
    height = -0.285 - 0.115 * now.brow - 0.085 * now.slant * (1 - t) ** 1.3 + 0.03 * now.slant * t
    y = height - 0.045 * np.sin(np.pi * np.clip(t * 0.85 + 0.1, 0, 1)) * (1 + 0.5 * max(0.0, now.brow))
    weight = look.brow_weight * (1 - 0.65 * t**1.6) * (1 + 0.15 * max(0.0, now.frown))
    shape = np.concatenate([np.stack([x, y - weight / 2], 1), np.stack([x, y + weight / 2], 1)[::-1]])
    _fill(bgr, shape, tuple(0.75 * h + 0.10 * s for h, s in zip(look.hair, look.skin, strict=True)))


def _mouth(bgr: np.ndarray, look: Look, now: Expression) -> None:
    half = look.mouth * (1 + 0.32 * now.wide)
    t = np.linspace(-1, 1, 21)
    line = 0.585 + now.smile * (0.05 - 0.15 * np.abs(t) ** 1.8)
    opening = max(0.0, now.open)
    bow = (1 - np.abs(t) ** (2 + 2.5 * max(0.0, now.square))) ** 0.9
    up = (0.07 * opening + 0.075 * max(0.0, now.lip) * (1 - 0.3 * np.abs(t))) * bow
    down = 0.27 * opening * bow
    inner_top, inner_bottom = line - up, line + down
    cupid = 0.046 + 0.012 * np.cos(3 * np.pi * np.clip(t, -0.66, 0.66)) * -1
    rim = (1 - t**2) ** 0.7
    outer_top = inner_top - cupid * rim * (1 - 0.25 * opening)
    outer_bottom = inner_bottom + 0.075 * (1 - t**2) ** 0.8

    def points(y: np.ndarray) -> np.ndarray:
        return np.stack([half * t, y], 1)

    _fill(bgr, np.concatenate([points(outer_top), points(inner_top + 0.01)[::-1]]), tuple(c * 0.88 for c in look.lips))
    _fill(bgr, np.concatenate([points(inner_bottom - 0.01), points(outer_bottom)[::-1]]), look.lips)
    gap = (inner_bottom - inner_top).max()
    if gap > 0.03:
        _fill(bgr, np.concatenate([points(inner_top), points(inner_bottom)[::-1]]), (22, 18, 40))
        tongue = inner_bottom - np.minimum(0.09, 0.4 * (inner_bottom - inner_top))
        if gap > 0.14:
            _fill(bgr, np.concatenate([points(tongue), points(inner_bottom)[::-1]])[3:-3], (70, 62, 130))
        if now.teeth > 0.1 or gap > 0.1:
            bared = min(1.0, 0.25 + max(0.0, now.teeth))
            edge = inner_top + np.minimum(0.11 * bared, 0.9 * (inner_bottom - inner_top)) * bow
            _fill(bgr, np.concatenate([points(inner_top), points(edge)[::-1]])[2:-2], (205, 214, 220))
            if now.square > 0.4 and now.teeth > 0.4:
                edge = inner_bottom - np.minimum(0.05, 0.35 * (inner_bottom - inner_top)) * bow
                _fill(bgr, np.concatenate([points(edge), points(inner_bottom)[::-1]])[2:-2], (190, 200, 208))
    _stroke(
        bgr,
        points((inner_top + inner_bottom) / 2 if gap <= 0.03 else inner_top),
        tuple(c * 0.42 for c in look.lips),
        0.018,
    )


def _place(
    head: np.ndarray,
    background: np.ndarray,
    look: Look,
    centre: np.ndarray,
    scale: float,
    angle: float,
    turn: float,
    now: Expression,
) -> tuple[np.ndarray, np.ndarray]:
    """Composes a head and its background: float32 (HEIGHT, WIDTH, 3), and the face's box (4,)."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    columns = np.arange(WIDTH, dtype=np.float32)[None] - np.float32(centre[0])
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None] - np.float32(centre[1])
    x = np.float32(cos) * columns + np.float32(sin) * rows
    y = np.float32(cos) * rows - np.float32(sin) * columns
    # A turn of the head shifts the middle of the face more than its edge.
    x = x - np.float32(turn) * np.clip(1 - (x / look.width) ** 2, 0, 1)
    jaw = np.float32(0.10 * min(1.0, max(0.0, now.open)))
    y = y - jaw * np.clip((y - 0.55) / 0.5, 0, 1)
    warped = cv2.remap(head, x * U + _CX, y * U + _CY, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    image = warped[..., :3] + background * (1 - warped[..., 3:].astype(np.float32) / 255)
    corners = np.array([[-0.98 * look.width, -0.62], [0.98 * look.width, 1.0 + jaw]])
    middle = corners.mean(0)
    moved = centre + scale * np.array(
        [np.cos(angle) * middle[0] - np.sin(angle) * middle[1], np.sin(angle) * middle[0] + np.cos(angle) * middle[1]]
    )
    extent = scale * (corners[1] - corners[0])
    return image, np.array([*(moved - extent / 2), *extent], np.float32)
