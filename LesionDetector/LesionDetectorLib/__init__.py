"""Find, label and measure lesions on CT: a CT in, a reviewed list of lesions and a report out."""

__version__ = "0.1.0"
