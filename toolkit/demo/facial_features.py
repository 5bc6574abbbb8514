"""Brows, eyes, mouth and folds of a demo face, drawn into the head's plane, whose units `faces` explains.

They lie within a part of the plane, `WHERE`, and only that is drawn anew for each frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .looks import Expression, Look

# Pixels per unit of length, the place (x, y) of the bridge of the nose, and the plane's height and width.
U = 96
CENTRE = (138, 142)
SHAPE = (279, 276)
# Rows and columns of all features in all expressions, and the place (x, y) of the bridge of the nose in this part.
WHERE = np.s_[52:258, 76:200]
_NOSE = (CENTRE[0] - WHERE[1].start, CENTRE[1] - WHERE[0].start)
_SOFT = 0.009 * U  # sigma, in pixels, by which what is drawn is blurred


def softened(head: np.ndarray) -> np.ndarray:
    """A head without features as sharp as its features will be, uint8 (height, width, 3)."""
    return cv2.GaussianBlur(head, (0, 0), _SOFT)


def features(bare: np.ndarray, look: Look, now: Expression) -> np.ndarray:
    """The part `WHERE` of a head with folds, brows, eyes and mouth.

    Args:
        bare: this part without them, uint8 (height, width, 3).
        look: the speaker's look.
        now: the expression.
    """
    folds = np.zeros(bare.shape[:2], np.uint8)
    _folds(folds, look, now)
    if folds.any():
        folds = 255 - cv2.GaussianBlur(folds, (0, 0), 0.023 * U)
        bgr = cv2.multiply(bare, cv2.cvtColor(folds, cv2.COLOR_GRAY2BGR), scale=1 / 255)
    else:
        bgr = bare.copy()
    for side in (-1, 1):
        _eye(bgr, look, now, side)
        _brow(bgr, look, now, side)
    _mouth(bgr, look, now)
    return cv2.GaussianBlur(bgr, (0, 0), _SOFT)


def _blend(front: np.ndarray, behind: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`front` where `weight` is 255 and `behind` where it is 0; all uint8 (height, width, 3)."""
    return cv2.add(cv2.multiply(front, weight, scale=1 / 255), cv2.multiply(behind, 255 - weight, scale=1 / 255))


def _pixels(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) of the head's plane in the part `WHERE`, in OpenCV's fixed-point form with 4 fractional bits."""
    return np.round((points * U + _NOSE) * 16).astype(np.int32)


def _fill(image: np.ndarray, points: np.ndarray, colour: Sequence[float]) -> None:
    cv2.fillPoly(image, [_pixels(points)], colour, cv2.LINE_AA, 4)


def _stroke(image: np.ndarray, points: np.ndarray, colour: Sequence[float], width: float) -> None:
    cv2.polylines(image, [_pixels(points)], False, colour, max(1, round(width * U)), cv2.LINE_AA, 4)


def _folds(folds: np.ndarray, look: Look, now: Expression) -> None:
    """Draws the folds of the skin into an image of darkness, 0 to 255."""
    t = np.linspace(0, 1, 9)
    mouth = look.mouth * (1 + 0.25 * now.wide)
    for side in (-1, 1):
        if now.fold > 0.15:
            x = side * (look.nose + 0.03 + (mouth + 0.10 - look.nose) * t + 0.05 * np.sin(np.pi * t))
            y = 0.28 + (0.56 - 0.08 * now.smile - 0.28) * t
            _stroke(folds, np.stack([x, y], 1), (int(min(170, 130 * now.fold)),), 0.035)
        if now.frown > 0.15:
            x, y = side * (0.055 + 0.01 * t), -0.36 + 0.18 * t
            _stroke(folds, np.stack([x, y], 1), (int(min(190, 150 * now.frown)),), 0.03)
        if now.squint > 0.15:
            x, y = side * (look.eye_gap - 0.15 + 0.32 * t), -0.02 + 0.07 * np.sin(np.pi * t)
            _stroke(folds, np.stack([x, y], 1), (int(min(140, 90 * now.squint)),), 0.03)
    for row in range(3):
        if now.wrinkle > 0.15:
            x, y = 0.10 * (2 * t - 1), -0.05 + 0.07 * row + 0.03 * (2 * t - 1) ** 2
            _stroke(folds, np.stack([x, y], 1), (int(min(150, 130 * now.wrinkle)),), 0.025)
        if now.brow > 0.35:
            x, y = 0.42 * (2 * t - 1), -0.52 - 0.075 * row + 0.03 * (2 * t - 1) ** 2
            _stroke(folds, np.stack([x, y], 1), (int(min(90, 80 * now.brow)),), 0.02)


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
    first = np.array([left, above]) / U  # of the patch
    _fill(mask, lens - first, (255,))
    ball = np.empty_like(patch)
    ball[:] = (205, 210, 214)
    centre = np.array([[side * gap, -0.115 + 0.030 * now.look]]) - first
    point = tuple(int(v) for v in _pixels(centre)[0])
    cv2.circle(ball, point, int(0.074 * U * 16), tuple(c * 0.5 for c in look.iris), -1, cv2.LINE_AA, 4)
    cv2.circle(ball, point, int(0.062 * U * 16), look.iris, -1, cv2.LINE_AA, 4)
    cv2.circle(ball, point, int(0.032 * U * 16), (8, 8, 8), -1, cv2.LINE_AA, 4)
    glint = (point[0] + int(look.light * 0.022 * U * 16), point[1] - int(0.024 * U * 16))
    cv2.circle(ball, glint, int(0.012 * U * 16), (245, 245, 245), -1, cv2.LINE_AA, 4)
    weight = cv2.cvtColor(cv2.GaussianBlur(mask, (0, 0), 0.006 * U), cv2.COLOR_GRAY2BGR)
    bgr[above:below, left:right] = _blend(ball, patch, weight)
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
