"""Maps of a clip's frames for a small network: how much of what is where, on a grid of 12 x 12 cells."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SIDE, CELL = 192, 16
GRID = SIDE // CELL
BANDS = ((2, 5), (5, 9), (9, 13), (13, 18), (18, 24), (24, 31))
CHANNELS = len(BANDS) + 2


def cosine_matrix(size: int) -> NDArray[np.float32]:
    """The orthonormal DCT-II matrix."""
    k = np.arange(size)
    matrix = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def cells(planes: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Cut planes (n, height, width) into a grid of square cells: (n, GRID, GRID, size, size)."""
    return planes.reshape(len(planes), GRID, size, GRID, size).transpose(0, 1, 3, 2, 4)


def maps(path: Path, frames: int = 8) -> NDArray[np.float32]:
    """Return (frames, CHANNELS, GRID, GRID): six bands of luma, change since the frame before, detail of colour.

    Each map has mean zero, so that the strength of the compression drops out.
    """
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        every = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    if every[0].shape != (SIDE * 3 // 2, SIDE):
        raise ValueError(f"frames of {SIDE} x {SIDE} pixels were expected")
    chosen = np.linspace(1, len(every) - 1, frames).astype(int)
    now = np.stack([every[index] for index in chosen]).astype(np.float32)
    before = np.stack([every[index - 1] for index in chosen]).astype(np.float32)
    luma = cells(now[:, :SIDE], CELL)
    chroma = cells(now[:, SIDE:].reshape(-1, SIDE // 2, SIDE // 2), CELL // 2)
    large, small = cosine_matrix(CELL), cosine_matrix(CELL // 2)
    energy = (large @ luma @ large.T) ** 2
    order = np.add.outer(np.arange(CELL), np.arange(CELL))
    found = [np.log(energy[..., (order >= low) & (order < high)].mean(-1) + 0.1) for low, high in BANDS]
    change = cells(now[:, :SIDE] - before[:, :SIDE], CELL)
    found.append(np.log(change.var((3, 4)) + 0.3))
    detail = (small @ chroma @ small.T) ** 2
    detail[..., 0, 0] = 0
    found.append(np.log(detail.mean((3, 4)).reshape(frames, 2, GRID, GRID).mean(1) + 0.02))
    stacked = np.stack(found, axis=1)
    return (stacked - stacked.mean((2, 3), keepdims=True)).astype(np.float32)
