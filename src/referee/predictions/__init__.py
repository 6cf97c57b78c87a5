"""Strict reading of prediction files, which come out of a sandbox and are hostile until shown otherwise."""

from referee.predictions.labels import Labels, read_labels
from referee.predictions.problems import PredictionError, Problem
from referee.predictions.reading import Predictions, describe_format, read_predictions

__all__ = [
    "Labels",
    "PredictionError",
    "Predictions",
    "Problem",
    "describe_format",
    "read_labels",
    "read_predictions",
]
