"""Talking heads of the demo corpus, drawn with numpy and OpenCV.

A head is drawn in its own plane at more than the resolution of the frame: a shaded base once per clip (`_head`), then
brows, eyes, mouth and folds for each frame (`features`). A single remapping rotates, scales and moves it into the
frame and lowers the jaw. What changes from frame to frame is drawn in integers, and only where it is. Lengths in the
head's plane are in units of U pixels; x points right, y down, (0, 0) is the bridge of the nose, and the chin is near
y = 1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .facial_features import CENTRE, SHAPE, WHERE, U, features, softened
from .looks import EXPRESSION_FIELDS, EXPRESSIONS, Expression, Look
from .script import FPS, stream

WIDTH, HEIGHT = 320, 240
# Pixels of the frame per unit of the head.
_SCALE = 72.0
# How far an open mouth lowers the chin, in units of the head.
_JAW = 0.10


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
    grain = np.round(rng.normal(0, 3.0, (HEIGHT + 16, WIDTH + 16, 1))).astype(np.int16).repeat(3, 2)
    bare = np.ascontiguousarray(head[WHERE][..., :3])
    head[..., :3] = softened(head[..., :3])
    extent = cv2.boundingRect(head[..., 3])
    frames, boxes = np.empty((count, HEIGHT, WIDTH, 3), np.uint8), np.empty((count, 4), np.float32)
    for k in range(count):
        now = Expression(**dict(zip(EXPRESSION_FIELDS, peak * rise[k], strict=True)))
        now.open += 0.42 * loudness[k]
        now.eyes = max(-1.2, now.eyes) - (1.9 + max(0.0, now.eyes)) * blinks[k]
        head[WHERE][..., :3] = features(bare, look, now)
        angle = np.deg2rad(6.0 * now.tilt + 2.5 * roll[k])
        centre = middle + (5 * x[k], 3 * y[k] + 6 * now.nod)
        pose = _Pose(centre, size * _SCALE, angle, 0.05 * turn[k], min(1.0, max(0.0, now.open)))
        frames[k] = background
        _place(frames[k], head, extent, look, pose)
        boxes[k] = _box(look, pose)
        down, right = rng.integers(0, 16, 2)
        cv2.add(frames[k], grain[down : down + HEIGHT, right : right + WIDTH], frames[k], dtype=cv2.CV_8U)
    return frames, boxes


def _drawn_expression(emotion: str, rng: np.random.Generator) -> np.ndarray:
    """An emotion's expression with random intensity and noise, in the order of EXPRESSION_FIELDS."""
    values = np.array([getattr(EXPRESSIONS[emotion], name) for name in EXPRESSION_FIELDS])
    return values * rng.uniform(0.75, 1.1) + rng.normal(0, 0.08, len(values)) * (np.array(EXPRESSION_FIELDS) != "open")


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
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    return (columns - CENTRE[0]) / U, (rows - CENTRE[1]) / U


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
    speckle = cv2.GaussianBlur(stream(0, "skin").normal(0, 1, SHAPE).astype(np.float32), (0, 0), 0.012 * U)
    skin += 8 * speckle[..., None]
    cover = np.clip((half - np.abs(x)) * 43 + 0.5, 0, 1) * (np.abs(y - 0) < 1.15)
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
    strands = stream(1, "hair").normal(0, 1, SHAPE).astype(np.float32)
    strands = cv2.GaussianBlur(strands, (0, 0), sigmaX=0.0094 * U, sigmaY=0.11 * U) * 5
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
    shadow = cv2.GaussianBlur(front, (0, 0), 0.055 * U)[..., None]
    colour = colour * (1 - 0.35 * shadow) * (1 - front[..., None]) + hair * front[..., None]
    alpha = np.maximum(np.maximum(cover, behind), front)
    colour *= rng.uniform(0.93, 1.05)
    return np.clip(np.dstack([colour, alpha * 255]) + 0.5, 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _wall(look: Look) -> tuple[np.ndarray, np.ndarray]:
    """The wall, float32 (HEIGHT, WIDTH, 3), and its plaster, float32 (HEIGHT, WIDTH)."""
    columns = np.arange(WIDTH, dtype=np.float32)
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
    return cv2.GaussianBlur(image, (0, 0), 5) + 3 * plaster[..., None], plaster


def _background(look: Look, middle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wall, neck and shoulders behind the head: uint8 (HEIGHT, WIDTH, 3)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    wall, plaster = _wall(look)
    image = wall.copy()
    x, y = (columns - middle[0]) / _SCALE, (rows - middle[1]) / _SCALE
    neck_half = 0.40 + 0.5 * np.clip(y - 1.15, 0, 1) ** 2
    neck = np.clip((neck_half - np.abs(x)) * 20, 0, 1) * (y > 0.2)
    tone = 0.78 - 0.34 * np.clip(1.30 - y, 0, 0.6) - 0.25 * (x * -look.light).clip(0, 1)
    image += (np.array(look.skin) * tone[..., None] - image) * neck[..., None]
    shoulders = 1.30 + 0.16 * np.abs(x) ** 1.6 - 0.10 * np.clip(0.55 - np.abs(x), 0, 1) * -3.2
    cloth = np.clip((y - shoulders) * 16, 0, 1)
    weave = 0.85 + 0.10 * np.sin(9 * x + 2 * y) + 0.12 * plaster - 0.2 * (x * -look.light).clip(-0.5, 1)
    image += (np.array(look.shirt) * weave[..., None] - image) * cloth[..., None]
    return np.clip(image * np.float32(rng.uniform(0.94, 1.06)) + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Pose:
    """How a head is placed in the frame: where its middle is, its scale, its angles in the picture and to the side, and
    how far the jaw is lowered, 0 to 1."""

    centre: np.ndarray
    scale: float
    angle: float
    turn: float
    open: float

    def moved(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points of the head's plane are in the frame, apart from the turn and the jaw."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return (
            self.centre[0] + self.scale * (cos * x - sin * y),
            self.centre[1] + self.scale * (sin * x + cos * y),
        )


def _place(frame: np.ndarray, head: np.ndarray, extent: Sequence[int], look: Look, pose: _Pose) -> None:
    """Draws a head into a frame, in place.

    Args:
        frame: uint8 (HEIGHT, WIDTH, 3).
        head: uint8 (height, width, 4), premultiplied.
        extent: left, top, width and height of what is not transparent in it, in pixels.
        look: the speaker's.
        pose: where it is drawn.
    """
    left, top, wide, high = extent
    corners = np.array([[left, top], [left + wide, top], [left, top + high], [left + wide, top + high]])
    x, y = pose.moved(*((corners - CENTRE) / U).T)
    aside, below = pose.scale * abs(pose.turn) + 2, pose.scale * _JAW + 2  # the turn and the jaw move it further
    x0, x1 = np.clip([int(x.min() - aside), int(x.max() + aside) + 1], 0, WIDTH)
    y0, y1 = np.clip([int(y.min() - 2), int(y.max() + below) + 1], 0, HEIGHT)
    # Inverse of rotation, scaling and translation.
    cos, sin = np.cos(pose.angle) / pose.scale, np.sin(pose.angle) / pose.scale
    columns = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(pose.centre[0])
    rows = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(pose.centre[1])
    x = np.float32(cos) * columns + np.float32(sin) * rows
    y = np.float32(cos) * rows - np.float32(sin) * columns
    # A turn of the head shifts the middle of the face more than its edge.
    x -= np.float32(pose.turn) * np.maximum(1 - np.square(x / np.float32(look.width)), 0)
    y -= np.float32(_JAW * pose.open) * np.clip((y - np.float32(0.55)) * 2, 0, 1)
    x, y = x * U + CENTRE[0], y * U + CENTRE[1]
    warped = cv2.remap(head, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    through = cv2.cvtColor(255 - cv2.extractChannel(warped, 3), cv2.COLOR_GRAY2BGR)
    part = frame[y0:y1, x0:x1]
    cv2.add(cv2.multiply(part, through, scale=1 / 255), cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR), part)


def _box(look: Look, pose: _Pose) -> np.ndarray:
    """The box of the face, float32 (4,): left, top, width and height."""
    corners = np.array([[-0.98 * look.width, -0.62], [0.98 * look.width, 1.0 + _JAW * pose.open]])
    middle = np.array(pose.moved(*corners.mean(0)))
    extent = pose.scale * (corners[1] - corners[0])
    return np.array([*(middle - extent / 2), *extent], np.float32)
