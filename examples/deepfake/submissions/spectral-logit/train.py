"""Fit the logistic model on the training phase: `train.py CLIPS LABELS.csv WEIGHTS.npz`."""

import csv
import sys
from pathlib import Path

import numpy as np
from features import features

RIDGE = 100.0
"""Penalty on squared slopes; the features are standardised, so one number serves all."""


def fit(values: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge logistic regression by Newton's method; the intercept is free. Returns slopes and intercept."""
    design = np.column_stack([values, np.ones(len(values))])
    penalty = np.full(design.shape[1], RIDGE)
    penalty[-1] = 0
    theta = np.zeros(design.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ theta))
        gradient = design.T @ (weight * (p - labels)) + penalty * theta
        curvature = (design.T * (weight * p * (1 - p))) @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        theta -= step
        if np.abs(step).max() < 1e-10:
            break
    return theta[:-1], float(theta[-1])


clips, labels_file, weights_file = (Path(argument) for argument in sys.argv[1:4])
with labels_file.open(newline="") as file:
    rows = list(csv.DictReader(file))
labels = np.array([int(row["label"]) for row in rows])
values = np.array([features(clips / row["filename"]) for row in rows])
mean, spread = values.mean(0), values.std(0)
share = labels.mean()
balance = np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))
slope, intercept = fit((values - mean) / spread, labels, balance)
np.savez(weights_file, mean=mean, spread=spread, slope=slope, intercept=intercept)
