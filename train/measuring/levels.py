"""How well a body-part regressor does on series that it has not learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from LesionDetectorLib.lesion import Region
from LesionDetectorLib.levels import SliceOrder, fitted
from LesionDetectorLib.models.body_part_regressor import BodyPartRegressor
from scipy.stats import spearmanr

from train.data.series import Series


def measured(model: BodyPartRegressor, card: Mapping, series: Sequence[Series]) -> dict:
    """Of each series the rank correlation of its scores with the order of its slices, and what `levels` makes of them;
    of those whose levels are known the errors in mm, of the slices by themselves after one line through all, and as
    `levels` gives them, and the share of slices in their region."""
    line = card["z"]
    model = model.eval()
    scores = [model.scores(each.images) for each in series]
    rows = [_row(score, each, line) for score, each in zip(scores, series)]
    known = [(score, each, row) for score, each, row in zip(scores, series, rows) if each.z is not None]
    found = {
        "series": len(series),
        "worst_rank_correlation": min(row["rank_correlation"] for row in rows),
        "of_series": {each.name: _rounded(row) for each, row in zip(series, rows)},
    }
    if known:
        raw = [line["offset"] + line["slope"] * score for score, *_ in known]
        errors = [(z - each.z) / line["per_mm"] for z, (_, each, _) in zip(raw, known)]
        found["levels_known"] = _rounded(
            {
                "series": len(known),
                "worst_rank_correlation": min(row["rank_correlation"] for *_, row in known),
                "median_error_mm_of_slices": _median_error(raw, known, line["per_mm"]),
                "median_error_mm": float(np.median([row["median_error_mm"] for *_, row in known])),
                "worst_error_mm": max(row["median_error_mm"] for *_, row in known),
                "in_their_region": float(np.mean([row["in_their_region"] for *_, row in known])),
            }
        )
        middles = [float(np.median(error)) for error in errors]
        within = [error - middle for error, middle in zip(errors, middles)]
        found["errors"] = {
            "volume_error_mm": round(float(np.sqrt(np.mean(np.square(middles)))), 2),
            "slice_error_mm": round(float(np.std(np.concatenate(within))), 2),
        }
    return found


def _row(score: np.ndarray, series: Series, line: Mapping[str, float]) -> dict:
    raw = line["offset"] + line["slope"] * score
    z, order = fitted(raw, series.places, series.places, line["per_mm"])
    if order is SliceOrder.UNORDERED:
        z = raw
    row = {
        "slices": len(score),
        "rank_correlation": float(spearmanr(score, series.places).statistic),
        "order": order.name,
        "z": [float(z[0]), float(z[-1])],
        "length_of_usual": float(np.polyfit(series.places, raw, 1)[0]) / line["per_mm"],
        "bend_mm": float(np.median(np.abs(raw - z)) / line["per_mm"]),
    }
    if series.z is not None:
        row["median_error_mm"] = float(np.median(np.abs(z - series.z)) / line["per_mm"])
        row["in_their_region"] = float(np.mean([Region.at(a) is Region.at(b) for a, b in zip(z, series.z)]))
    return row


def _median_error(raw: Sequence[np.ndarray], known: Sequence[tuple], per_mm: float) -> float:
    """The median distance of slices from their level in mm, after one line through those of all series."""
    said, true = np.concatenate(raw), np.concatenate([each.z for _, each, _ in known])
    slope, offset = np.polyfit(said, true, 1)
    return float(np.median(np.abs(slope * said + offset - true)) / per_mm)


def _rounded(row: Mapping) -> dict:
    return {
        name: [round(each, 3) for each in value]
        if isinstance(value, list)
        else round(value, 3)
        if isinstance(value, float)
        else value
        for name, value in row.items()
    }
