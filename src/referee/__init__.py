"""Referee: re-run untrusted, containerised submissions on private test data, and publish scores that stand."""

__version__ = "0.1.0"
