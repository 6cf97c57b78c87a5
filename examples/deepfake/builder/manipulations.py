"""Ways to fake a face in a short clip. Each takes frames with tracked faces and returns frames of the same shape.

None of them is meant to convince a person: each leaves a kind of trace that published detectors look for (a blending
boundary, missing high frequencies, a frozen donor, a warped mouth), at a size that a laptop can make in seconds.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from builder.faces import Face, Points
from builder.sources import Frame

Mask = NDArray[np.float32]


class Kind(enum.StrEnum):
    """How a clip was made."""

    REAL = "real"
    SELF_BLEND = "self_blend"
    RESYNTHESIS = "resynthesis"
    SWAP = "swap"
    MOUTH_WARP = "mouth_warp"


@dataclass(frozen=True)
class Donor:
    """A face in a photograph that a swap pastes over another."""

    name: str
    image: Frame
    face: Face


def manipulate(
    kind: Kind, frames: Sequence[Frame], faces: Sequence[Face], donor: Donor, random: np.random.Generator
) -> list[Frame]:
    """Apply one manipulation to a whole clip; a real clip comes back as it is."""
    if kind is Kind.SELF_BLEND:
        return self_blend(frames, faces, random)
    if kind is Kind.RESYNTHESIS:
        return resynthesis(frames, faces, random)
    if kind is Kind.SWAP:
        return swap(frames, faces, donor, random)
    if kind is Kind.MOUTH_WARP:
        return mouth_warp(frames, faces, random)
    return list(frames)


def face_mask(face: Face, shape: tuple[int, ...], grow: float, softness: float) -> Mask:
    """An upright-with-the-eyes ellipse over the inner face: 1 inside, 0 outside, `softness` pixels of blur between."""
    eyes, mouth = face.points[:2].mean(axis=0), face.points[3:].mean(axis=0)
    across = face.points[1] - face.points[0]
    width = max(float(np.hypot(*across)), float(np.hypot(*(mouth - eyes))) * 0.6) * 0.95 * grow
    height = float(np.hypot(*(mouth - eyes))) * 1.2 * grow
    middle = eyes + 0.55 * (mouth - eyes)
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    mask = np.zeros(shape[:2], np.float32)
    cv2.ellipse(mask, (middle.tolist(), (2 * width, 2 * height), angle), (1.0,), -1)
    if softness > 0:
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), softness), np.float32)
    return mask


def blend(over: NDArray[np.float32], under: Frame, mask: Mask) -> Frame:
    """Mix two images by a mask and round to 8 bits."""
    mixed = over * mask[..., None] + under.astype(np.float32) * (1 - mask[..., None])
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def self_blend(frames: Sequence[Frame], faces: Sequence[Face], random: np.random.Generator) -> list[Frame]:
    """Blend a slightly moved, recoloured and re-filtered copy of the face over itself (after Shiohara, CVPR 2022)."""
    scale, shift = random.uniform(0.93, 1.07), random.uniform(-3.0, 3.0, 2)
    colour = random.uniform(0.94, 1.06, 3).astype(np.float32)
    sharpen = random.random() < 0.5
    amount, grow, softness = random.uniform(0.6, 1.2), random.uniform(0.85, 1.1), random.uniform(2.0, 5.0)
    result = []
    for frame, face in zip(frames, faces, strict=True):
        matrix = np.asarray(cv2.getRotationMatrix2D(face.centre.tolist(), random.normal(0, 0.7), scale), np.float64)
        matrix[:, 2] = matrix[:, 2] + shift + random.normal(0, 0.4, 2)
        copy = np.asarray(cv2.warpAffine(frame, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REFLECT), np.float32)
        soft = np.asarray(cv2.GaussianBlur(copy, (0, 0), 1.2), np.float32)
        copy = copy + np.float32(amount) * (copy - soft) if sharpen else soft
        result.append(blend(copy * colour, frame, face_mask(face, frame.shape, grow, softness)))
    return result


def resynthesis(frames: Sequence[Frame], faces: Sequence[Face], random: np.random.Generator) -> list[Frame]:
    """Send the face through a small bottleneck and enlarge it again, as an autoencoder's 64-pixel output looks."""
    bottleneck = int(random.integers(40, 60))
    grow, softness = random.uniform(0.9, 1.15), random.uniform(2.0, 4.0)
    gain = np.float32(random.uniform(0.94, 1.06))
    result = []
    for frame, face in zip(frames, faces, strict=True):
        left, top = np.maximum(face.box[:2], 0).astype(int)
        right, bottom = np.minimum(face.box[2:], frame.shape[1::-1]).astype(int)
        patch = frame[top:bottom, left:right]
        small = cv2.resize(patch, (bottleneck, bottleneck), interpolation=cv2.INTER_AREA)
        large = cv2.resize(small, patch.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        over = frame.astype(np.float32)
        over[top:bottom, left:right] = np.asarray(large, np.float32) * gain
        result.append(blend(over, frame, face_mask(face, frame.shape, grow, softness)))
    return result


def swap(frames: Sequence[Frame], faces: Sequence[Face], donor: Donor, random: np.random.Generator) -> list[Frame]:
    """Align a donor's face by its landmarks and clone it seamlessly (Perez et al., Poisson image editing, 2003)."""
    grow = random.uniform(0.85, 1.0)
    result = []
    for frame, face in zip(frames, faces, strict=True):
        matrix = similarity(donor.face.points, face.points)
        aligned = cv2.warpAffine(
            donor.image, matrix, frame.shape[1::-1], flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
        )
        mask = np.asarray(face_mask(face, frame.shape, grow, 0) * 255, np.uint8)
        aligned = with_contrast_of(np.asarray(aligned, np.uint8), frame, mask)
        mask[:3], mask[-3:], mask[:, :3], mask[:, -3:] = 0, 0, 0, 0  # seamlessClone needs a border of its own
        left, top, width, height = cv2.boundingRect(mask)
        if min(width, height) < 8:
            result.append(frame)
            continue
        middle = (left + width // 2, top + height // 2)
        cloned = cv2.seamlessClone(aligned, frame, mask, middle, cv2.NORMAL_CLONE)
        result.append(np.asarray(cloned, np.uint8))
    return result


def with_contrast_of(image: Frame, other: Frame, mask: Frame) -> Frame:
    """Scale the contrast of an image, within a mask, down to that of another."""
    inside = mask > 0
    values = image.astype(np.float32)
    ratio = np.float32(min(1.0, float(other[inside].std()) / max(1.0, float(image[inside].std()))))
    mean = values[inside].mean(axis=0)
    return np.asarray(np.clip(np.rint((values - mean) * ratio + mean), 0, 255), np.uint8)


def mouth_warp(frames: Sequence[Frame], faces: Sequence[Face], random: np.random.Generator) -> list[Frame]:
    """Stretch and squeeze the mouth over time, as a reenactment does: no blending boundary, only resampled pixels."""
    rate, phase = random.uniform(0.25, 0.6), random.uniform(0, 2 * np.pi)
    strength = random.uniform(0.12, 0.2)
    result = []
    for index, (frame, face) in enumerate(zip(frames, faces, strict=True)):
        mouth = face.points[3:].mean(axis=0)
        reach = float(np.hypot(*(face.points[4] - face.points[3]))) * 0.9 + 4
        rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
        x, y = (columns - mouth[0]) / reach, (rows - mouth[1]) / reach
        weight = np.exp(-(x**2 + y**2))
        swing = strength * np.sin(rate * index + phase)
        moved = cv2.remap(
            frame,
            np.asarray(columns + reach * weight * x * swing * 0.8, np.float32),
            np.asarray(rows - reach * weight * (y * 1.5 + 0.2) * swing, np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        result.append(np.asarray(moved, np.uint8))
    return result


def similarity(source: Points, target: Points) -> NDArray[np.float64]:
    """The 2x3 matrix of rotation, scale and shift that maps landmarks onto landmarks in least squares (Umeyama)."""
    from_mean, to_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - from_mean, target - to_mean
    norm = float((a**2).sum())
    real = float((a * b).sum()) / norm
    turn = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / norm
    linear = np.array([[real, -turn], [turn, real]])
    return np.column_stack([linear, to_mean - linear @ from_mean])
