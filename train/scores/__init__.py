"""How right a model is: predictions, metrics, groups, calibration, resampling."""
