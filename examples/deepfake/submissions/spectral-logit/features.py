"""Energies of the frequency bands of a clip, in the middle of the frame, where the face is, against the rim."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BLOCK = 16
BANDS = ((1, 3), (3, 5), (5, 8), (8, 11), (11, 14), (14, 18), (18, 24), (24, 31))
"""Sums of row and column frequency of a block's cosine transform: from (inclusive), to (exclusive)."""


def read_luma(path: Path, frames: int) -> NDArray[np.float32]:
    """Decode a clip and return `frames` evenly spaced frames, shape (frames, height, width), 0 to 255."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        every = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    chosen = np.linspace(0, len(every) - 1, frames).astype(int)
    return np.stack([every[index] for index in chosen]).astype(np.float32)


def cosine_matrix(size: int) -> NDArray[np.float32]:
    """The orthonormal DCT-II matrix."""
    k = np.arange(size)
    matrix = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def features(path: Path, frames: int = 8) -> NDArray[np.float64]:
    """Return 32 numbers for a clip: per band the level, middle against rim, spread in space, spread in time."""
    luma = read_luma(path, frames)
    count, height, width = luma.shape
    rows, columns = height // BLOCK, width // BLOCK
    blocks = luma[:, : rows * BLOCK, : columns * BLOCK].reshape(count, rows, BLOCK, columns, BLOCK)
    transform = cosine_matrix(BLOCK)
    energy = (transform @ blocks.transpose(0, 1, 3, 2, 4) @ transform.T) ** 2
    order = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))
    level = np.stack(
        [np.log(energy[..., (order >= low) & (order < high)].mean(-1) + 0.05) for low, high in BANDS], axis=-1
    )
    middle = level[:, rows // 4 : -(rows // 4), columns // 4 : -(columns // 4)]
    on_rim = np.ones((rows, columns), bool)
    on_rim[2:-2, 2:-2] = False
    inside, outside = middle.mean((1, 2)), level[:, on_rim].mean(1)
    parts = [inside.mean(0), (inside - outside).mean(0), middle.std((1, 2)).mean(0), inside.std(0)]
    return np.concatenate(parts).astype(np.float64)
