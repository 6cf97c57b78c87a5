"""Train the network on the training phase: `train.py CLIPS LABELS.csv WEIGHTS.npz`. Seeded, a few seconds."""

import csv
import sys
from pathlib import Path

import numpy as np
from features import CHANNELS, maps
from network import Array, Weights, forward, gradient, initial

SEED, WIDTH, EPOCHS, BATCH, FRAMES = 0, 10, 30, 16, 4
RATE, DECAY, DROPOUT = 3e-3, 1e-2, 0.2


def batch(random: np.random.Generator, clips: Array) -> Array:
    """Draw `FRAMES` frames of each clip, mirrored, shifted by a cell, a little off in level and noisy."""
    order = random.permuted(np.tile(np.arange(clips.shape[1]), (len(clips), 1)), axis=1)[:, :FRAMES]
    x = clips[np.arange(len(clips))[:, None], order]
    mirrored = random.random(len(x)) < 0.5
    x[mirrored] = x[mirrored][..., ::-1]
    down, right = random.integers(-1, 2, 2)
    x = np.roll(x, (int(down), int(right)), (3, 4))
    x = x + 0.3 * random.standard_normal((len(x), 1, CHANNELS, 1, 1)) + 0.1 * random.standard_normal(x.shape)
    return x.reshape(-1, *x.shape[2:]).astype(np.float32)


def train(clips: Array, labels: Array, balance: Array) -> Weights:
    """Minimise the log loss of a clip's mean logit with Adam, decoupled weight decay and a cosine schedule."""
    random = np.random.default_rng(SEED)
    weights = initial(random, CHANNELS, WIDTH)
    mean = {name: np.zeros_like(value) for name, value in weights.items()}
    square = {name: np.zeros_like(value) for name, value in weights.items()}
    steps, step = EPOCHS * -(-len(labels) // BATCH), 0
    for _ in range(EPOCHS):
        order = random.permutation(len(labels))
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            x = batch(random, clips[chosen])
            keep = ((random.random((len(x), 2 * WIDTH)) > DROPOUT) / (1 - DROPOUT)).astype(np.float32)
            logits, kept = forward(weights, x, keep)
            p = 1 / (1 + np.exp(-logits.reshape(len(chosen), FRAMES).mean(1)))
            slope = (p - labels[chosen]) * balance[chosen] / len(chosen) / FRAMES
            slopes = gradient(weights, np.repeat(slope, FRAMES).astype(np.float32), kept)
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for name, value in slopes.items():
                mean[name] = 0.9 * mean[name] + 0.1 * value
                square[name] = 0.99 * square[name] + 0.01 * value**2
                move = mean[name] / (1 - 0.9**step) / (np.sqrt(square[name] / (1 - 0.99**step)) + 1e-8)
                decay = DECAY * weights[name] if name.startswith("w") else 0
                weights[name] = (weights[name] - rate * (move + decay)).astype(np.float32)
    return weights


clips_folder, labels_file, weights_file = (Path(argument) for argument in sys.argv[1:4])
with labels_file.open(newline="") as file:
    rows = list(csv.DictReader(file))
labels = np.array([int(row["label"]) for row in rows], np.float32)
clips = np.stack([maps(clips_folder / row["filename"]) for row in rows])
spread = clips.std((0, 1, 3, 4), keepdims=True)[0]
share = float(labels.mean())
balance = np.where(labels == 1, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)
np.savez(weights_file, spread=spread, **train(clips / spread, labels, balance))
