"""Lesions over time, from the RECIST 1.1 baseline on."""
