"""The detectors. Only this room, `detect.py` and the training code import torch."""
