"""Scores of a model: predictions, metrics, groups, calibration, resampling."""
