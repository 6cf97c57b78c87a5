"""A convolutional network of two layers in plain numpy, with its gradient."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Weights = dict[str, Array]


def initial(random: np.random.Generator, channels: int, width: int) -> Weights:
    """He-normal weights: two 3x3 convolutions of `width` maps, then mean and maximum of each map, then one number."""

    def normal(rows: int, columns: int, gain: float = 1.0) -> Array:
        return (random.standard_normal((rows, columns)) * np.sqrt(2 / rows) * gain).astype(np.float32)

    def zeros(count: int) -> Array:
        return np.zeros(count, np.float32)

    return {
        "w1": normal(channels * 9, width), "b1": zeros(width),
        "w2": normal(width * 9, width), "b2": zeros(width),
        "w3": normal(2 * width, 1, 0.3), "b3": zeros(1),
    }  # fmt: skip


def patches(x: Array) -> Array:
    """Every 3x3 neighbourhood of (n, c, h, w), with zeros beyond the rim, as rows (n*h*w, c*9)."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(n * h * w, c * 9)


def unpatch(rows: Array, shape: tuple[int, ...]) -> Array:
    """The transpose of `patches`: add every neighbourhood back to where it came from."""
    n, c, h, w = shape
    parts = rows.reshape(n, h, w, c, 3, 3)
    out = np.zeros((n, c, h + 2, w + 2), np.float32)
    for i in range(3):
        for j in range(3):
            out[:, :, i : i + h, j : j + w] += parts[..., i, j].transpose(0, 3, 1, 2)
    return out[:, :, 1:-1, 1:-1]


def forward(p: Weights, x: Array, keep: Array | None = None) -> tuple[Array, dict[str, Any]]:
    """Return a logit for each item of (n, c, h, w), and what `gradient` needs. `keep` is a dropout mask."""
    n, _, h, w = x.shape
    rows1 = patches(x)
    hidden1 = np.maximum(rows1 @ p["w1"] + p["b1"], 0)
    maps1 = hidden1.reshape(n, h, w, -1).transpose(0, 3, 1, 2)
    rows2 = patches(maps1)
    hidden2 = np.maximum(rows2 @ p["w2"] + p["b2"], 0).reshape(n, h * w, -1)
    peak = hidden2.argmax(1)
    pooled = np.concatenate([hidden2.mean(1), np.take_along_axis(hidden2, peak[:, None], 1)[:, 0]], axis=1)
    if keep is not None:
        pooled = pooled * keep
    logit = (pooled @ p["w3"] + p["b3"])[:, 0]
    return logit, {
        "rows1": rows1, "hidden1": hidden1, "shape1": maps1.shape, "rows2": rows2,
        "hidden2": hidden2, "peak": peak, "pooled": pooled, "keep": keep,
    }  # fmt: skip


def gradient(p: Weights, slope: Array, kept: dict[str, Any]) -> Weights:
    """Return the derivative of the loss by every weight, given its derivative by every logit."""
    hidden2, peak = kept["hidden2"], kept["peak"]
    _, places, width = hidden2.shape
    found = {"w3": kept["pooled"].T @ slope[:, None], "b3": slope.sum(keepdims=True)}
    pooled = slope[:, None] * p["w3"][:, 0]
    if kept["keep"] is not None:
        pooled = pooled * kept["keep"]
    back = np.repeat(pooled[:, None, :width] / places, places, axis=1)
    at_peak = np.take_along_axis(back, peak[:, None], 1) + pooled[:, None, width:]
    np.put_along_axis(back, peak[:, None], at_peak, 1)
    rows = (back * (hidden2 > 0)).reshape(-1, width)
    found["w2"], found["b2"] = kept["rows2"].T @ rows, rows.sum(0)
    below = unpatch(rows @ p["w2"].T, kept["shape1"]).transpose(0, 2, 3, 1).reshape(-1, width)
    below = below * (kept["hidden1"] > 0)
    found["w1"], found["b1"] = kept["rows1"].T @ below, below.sum(0)
    return found
