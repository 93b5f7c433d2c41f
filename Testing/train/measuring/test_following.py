"""Lesions of synthetic patients are followed over their studies, by the pixels; and the figure can fail."""

from __future__ import annotations

import numpy as np

from train.measure_following import Counts, counted, followed, main, shuffled, tracks


def test_lesions_are_followed_by_pixels_and_shuffled_ones_are_not() -> None:
    patients = [followed((3, 1), studies=3, lesions=14, size=64, interval=8.0, regions=("torso",))]
    assert np.median(np.concatenate([study.errors_mm for studies in patients for study in studies[:-1]])) < 4
    found = Counts(*np.sum([counted(studies, tracks(studies)) for studies in patients], axis=0))
    assert found.true >= 8 and found.f1 >= 0.95
    dealt = [shuffled(studies, np.random.default_rng(0)) for studies in patients]
    control = Counts(*np.sum([counted(studies, tracks(studies)) for studies in dealt], axis=0))
    assert control.f1 < 0.5


def test_many_more_by_the_true_alignment(capsys) -> None:
    assert main(["--patients", "4", "--no-pixels", "--size", "64", "--interval-mm", "8", "--seed", "2"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert float(line.rpartition("F1 ")[2]) >= 0.95
