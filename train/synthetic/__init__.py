"""Synthetic CT: a parametric patient, its lesions, the scanner that sees it; and synthetic lesions put into real CT."""
