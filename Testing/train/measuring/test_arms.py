"""The arms of an experiment: what they reach on whole volumes, and when a gain counts as shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from LesionDetectorLib.lesion import BodyPart

from train import phantom
from train.data import subvolumes
from train.measuring import arms
from train.measuring.arms import COLUMNS, Measured, contrast, measured

TITLES = {"B": "one", "G": "other"}


def run(arm: str, seed: int, values, spread: float = 0.01) -> Measured:
    values = np.broadcast_to(np.asarray(values, float), (len(COLUMNS),))
    noise = np.random.default_rng((seed, ord(arm[0]))).normal(0, spread, (200, len(COLUMNS)))
    return Measured(arm, seed, values, values + noise)


def test_a_gain_is_shown_where_three_seeds_agree_and_the_interval_leaves_out_0() -> None:
    base = [run("B", seed, 0.3) for seed in range(3)]
    better = [run("G", seed, 0.4 + seed / 100) for seed in range(3)]
    result = contrast([*base, *better], "G", "B")
    assert result.gain == pytest.approx([0.11] * len(COLUMNS)) and (result.shown == 1).all()
    assert (result.low < result.gain).all() and (result.gain < result.high).all()
    assert (contrast([*base, *better], "B", "G").shown == -1).all()
    assert (contrast([*base[:2], *better], "G", "B").shown == 0).all(), "two seeds show nothing"
    mixed = [*better[:2], run("G", 2, 0.29)]
    assert (contrast([*base, *mixed], "G", "B").shown == 0).all(), "the seeds differ"
    wide = [run("G", seed, 0.301 + seed / 1000) for seed in range(3)]
    assert (contrast([*base, *wide], "G", "B").shown == 0).all(), "the interval holds 0"
    assert contrast(base, "G", "B") is None


def test_the_page_says_gains_costs_and_what_holds() -> None:
    cost = np.full(len(COLUMNS), -0.1)
    cost[0] = 0.2
    runs = [
        each
        for seed in range(3)
        for each in (run("B", seed, 0.3), run("G", seed, 0.3 + cost), run("A", seed, 0.6), run("C", seed, 0.3))
    ]
    page = arms.page(runs, TITLES, [("G", "B"), ("A", "B")], "# Head")
    assert "| G − B | **+20.0 [" in page and "**-10.0 [" in page and "+++" in page and "−−−" in page
    assert "G finds more of the missing types than B: yes." in page
    assert "G wins back at least half of what B lacks of A on the missing types: yes (67 %)." in page
    assert arms.table(runs).shape == (12, 2 + len(COLUMNS))
    assert "are needed to say" in arms.page(runs, TITLES, [], "# Head")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("volumes") / "T"
    options = "--patients 2 --seed 4 --size 64 --interval-mm 20 --labels balanced --slices all --annotate all"
    splits = ["--splits", "0", "0", "100", "--lesions-per-patient", "8"]
    assert phantom.main(["--out", str(out), *options.split(), *splits]) == 0
    return out


def test_all_cross_sections_find_all_lesions_and_none_find_none(volumes: Path) -> None:
    truth = arms.Truth.read(volumes / "lesions.csv", subvolumes.read(volumes, "test"))
    every = pd.read_csv(volumes / "lesions.csv")
    lesions = every[["Patient_index", "Lesion"]].drop_duplicates()
    assert truth.lesions.max() + 1 == len(lesions) < len(every) and len(truth.names) == 2
    sections = truth.sections
    columns = dict(zip(("x1", "y1", "x2", "y2"), sections.boxes.T))
    places = {"image": truth.names[sections.image], "slice": truth.slices, "label": sections.labels, "score": 0.9}
    found = pd.DataFrame({**places, **columns})
    result = measured("A", 0, found, truth, 20)
    known = [COLUMNS.index(part.title) for part in BodyPart if part in every["Coarse_lesion_type"].to_numpy()]
    assert result.values[[0, 1, 2, 3, *known]] == pytest.approx(1.0) and result.samples.shape == (20, len(COLUMNS))
    nothing = measured("A", 0, found.iloc[:0], truth, 20)
    assert nothing.values[:4] == pytest.approx(0.0)
    one = sections.labels == sections.labels[0]
    some = measured("A", 0, found[one], truth, 20)
    assert some.values[3] == pytest.approx(1 / len(known)) and 0 < some.values[2] < 1
