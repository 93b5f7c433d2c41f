"""Making training data, training and measuring detectors; needs the `train` extra."""
