"""Faces in images: detection with OpenCV, and square crops of a face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.hashes import file_sha256

YUNET_REPO = "opencv/face_detection_yunet"
YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
# Below this score most detections are hands and blurred shadows, few are profiles; other frames of a clip show the
# face.
YUNET_SCORE = 0.8
# Detection works on images of at most this width. Compared with 640 it is three times faster, and on 213 frames of
# films it missed 1 face of 297, found 4 more, and moved landmarks by 2% of the face's width (median).
DETECTION_WIDTH = 480
# With a smallest face that is asked for, the image is made so small that this face has this height in pixels. The
# cascade's is that of its window. YuNet's and a fifth of the image's height were 2.4 and 3.3 times as fast on 149
# frames of a series and of acted dialogues, missed 1 face of 216, found 6 more, and moved landmarks by 4 and 5% of the
# face's width (median).
_LEAST_PIXELS = {"haar": 24, "yunet": 32}
# Positions of eyes, nose and mouth corners of an upright face in an aligned crop without margin, as fractions of its
# side.
_TEMPLATE = np.array([[0.32, 0.38], [0.68, 0.38], [0.50, 0.58], [0.36, 0.77], [0.64, 0.77]])


@dataclass(frozen=True)
class Face:
    """A detected face: box (left, top, width, height) in pixels, score, five landmarks (5, 2) or None."""

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray | None

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]


def face_model(detector: str, given: Path | None) -> tuple[Path, str]:
    """The detector's model file and its SHA-256: the given file, or YuNet's from the hub, or OpenCV's Haar cascade.

    Raises:
        UserError: a missing file, or YuNet is neither in the cache nor available from the hub.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"--face-model {given}: no such file")
        path = given
    elif detector == "haar":
        path = Path(cv2.__file__).parent / "data/haarcascade_frontalface_default.xml"
    else:
        from huggingface_hub import hf_hub_download

        from ..encoders.hub import hub_unreachable

        try:
            path = Path(hf_hub_download(YUNET_REPO, YUNET_FILE, local_files_only=hub_unreachable()))
        except Exception as error:  # offline, refused, full disk: the remedy is the same
            raise UserError(
                f"YuNet's model file is not on this machine: connect to the Hugging Face hub ({YUNET_REPO}), or pass "
                f"{YUNET_FILE} with --face-model FILE ({type(error).__name__})"
            ) from None
        if (found := file_sha256(path)) != YUNET_SHA256:
            raise UserError(
                f"{path}: SHA-256 {found[:12]}… is not YuNet's {YUNET_SHA256[:12]}…; delete it and try again"
            )
    return path, file_sha256(path)


def make_detector(kind: str, model: Path, smallest: float | None = None) -> YuNet | Haar:
    """The detector of that kind ("yunet" or "haar") with its model file.

    Args:
        kind: of the detector.
        model: its file.
        smallest: the smallest face to be found, as a fraction of the image's height: the larger it is, the smaller are
            the images that are searched, and the faster that is. None for as small as the detector can.

    Raises:
        UserError: OpenCV cannot read the file as a model of that kind.
    """
    try:
        return {"yunet": YuNet, "haar": Haar}[kind](model, smallest)
    except cv2.error:
        raise UserError(f"--face-model {model}: OpenCV cannot read it as a {kind} model") from None


class YuNet:
    """OpenCV's `FaceDetectorYN`: boxes, scores and five landmarks."""

    def __init__(self, model: Path, smallest: float | None = None):
        self._smallest = smallest
        self._detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), YUNET_SCORE, 0.3, 500)

    def __call__(self, image: np.ndarray) -> list[Face]:
        """Faces in an image uint8 (height, width, 3) RGB."""
        scale, small = _shrink(image, self._smallest, _LEAST_PIXELS["yunet"])
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        _, found = self._detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        rows = [] if found is None else found[np.isfinite(found).all(1)] / np.array([*[scale] * 14, 1])
        return [
            Face(tuple(row[:4].tolist()), float(row[14]), row[4:14].reshape(5, 2))
            for row in rows
            if row[2] > 0 < row[3]
        ]


class Haar:
    """OpenCV's frontal-face cascade: boxes only, with the cascade's confidence as the score."""

    def __init__(self, model: Path, smallest: float | None = None):
        self._smallest = smallest
        self._cascade = cv2.CascadeClassifier()
        if not self._cascade.load(str(model)):
            raise UserError(f"--face-model {model}: OpenCV cannot read it as a Haar cascade")

    def __call__(self, image: np.ndarray) -> list[Face]:
        """Faces in an image uint8 (height, width, 3) RGB."""
        scale, small = _shrink(image, self._smallest, _LEAST_PIXELS["haar"])
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        least = max(24, min(grey.shape) // 10, round((self._smallest or 0) * len(grey)))
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least), outputRejectLevels=True
        )
        found = [
            Face(tuple((np.asarray(box) / scale).tolist()), float(weight), None)
            for box, weight in zip(boxes, weights, strict=True)
        ]
        kept: list[Face] = []
        for face in sorted(found, key=lambda face: -face.score):  # the cascade also finds smaller faces within a face
            if all(overlap(face.box, other.box) < 0.1 for other in kept):
                kept.append(face)
        return kept


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def crop(image: np.ndarray, face: Face, size: int, margin: float) -> np.ndarray:
    """A square crop uint8 (size, size, 3), rotated upright if the face has landmarks.

    Args:
        image: uint8 (height, width, 3).
        face: a face found in it.
        size: side of the crop in pixels.
        margin: margin added on each side of the face, as a fraction of the face's side.
    """
    inner = 1 / (1 + 2 * margin)
    if face.landmarks is not None:
        matrix = _similarity(face.landmarks, ((_TEMPLATE - 0.5) * inner + 0.5) * size)
    else:
        left, top, width, height = face.box
        scale = size * inner / max(width, height)
        matrix = np.array(
            [[scale, 0, size / 2 - scale * (left + width / 2)], [0, scale, size / 2 - scale * (top + height / 2)]]
        )
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:  # bilinear sampling skips pixels when it shrinks by more than half
        image, matrix = _around(image, matrix, size, margin=2 / scale)
        image = cv2.GaussianBlur(image, (0, 0), 0.25 / scale)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _around(image: np.ndarray, matrix: np.ndarray, size: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that a crop is taken from, with `margin` pixels around it, and the matrix for that part."""
    corners = cv2.transform(
        np.array([[[0, 0], [size, 0], [0, size], [size, size]]], np.float64), cv2.invertAffineTransform(matrix)
    )[0]
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(corners.min(0) - margin).astype(int), 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(corners.max(0) + margin).astype(int), [left + 1, top + 1], [width, height])
    moved = matrix.astype(np.float64).copy()
    moved[:, 2] += moved[:, :2] @ np.array([left, top])
    return image[top:bottom, left:right], moved


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scaling and translation (2, 3) that map points (n, 2) to their targets with least squared error."""
    x, y = source.astype(np.float64).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, right, down = np.linalg.lstsq(rows, np.concatenate([target[:, 0], target[:, 1]]), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


def _shrink(image: np.ndarray, smallest: float | None, pixels: int) -> tuple[float, np.ndarray]:
    """The factor by which an image is shrunk, and the smaller image; `pixels` is the height that `smallest` gets."""
    scale = min(1.0, DETECTION_WIDTH / image.shape[1])
    if smallest is not None:
        scale = min(scale, pixels / (smallest * len(image)))
    if scale == 1.0:
        return scale, image
    return scale, cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
