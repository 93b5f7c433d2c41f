"""Where the prior CT of a patient lies in the current one: a map between their LPS mm and back.

Two scans of one patient differ in the height of the table, the field of view and the zero of z, and may share a part of
the body only. So the first guess comes from the pixels: of all shifts along z those at which the bodies are most alike,
on a coarse grid. Each is refined to a turn and a shift, the best of them to an affine map; what breathing and posture
leave is followed by a smooth drift. The table is left out, and the same CTs always give the same map.

A lying patient's LPS axes are the body's, so that prone and supine scans need no turn; where a file says otherwise than
its pixels, a half turn about z is found and told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from LesionDetectorLib.refusal import Refusal

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

    from LesionDetectorLib.ct import Volume

    Linear = sitk.Euler3DTransform | sitk.AffineTransform

GRID_MM = 4.0
COARSE = 3
"""So many steps of the grid are one of the first guess."""
STARTS = 2
TURNED_BETTER_BY = 0.05
"""A half turn is believed where it fits so much better."""
LEAST_OVERLAP_MM = 48.0
LEAST_SIMILARITY = 0.6
DOUBTFUL_SIMILARITY, DOUBTFUL_MM = 0.8, 8.0
MOST_STRETCH = 0.1
TONE_HU, TONE = (-1000.0, -160.0, 240.0, 800.0), (0.0, 0.35, 0.85, 1.0)
"""What bodies are compared by: soft tissue is drawn out, and bone does not outweigh it."""
FAR_MM = 25.0
"""Breathing moves organs by so much at most."""
_SAMPLED = 0.25
_OFF_BY = 0.5
"""Places are off by so much of the drift: measured on real CT with breathing put in."""
_DRIFT_STEPS, _DRIFT_SIGMA, _FLAT = 6, 4.0, 2e-5
_TABLE_HU = -800


@dataclass(frozen=True, eq=False, slots=True)
class Drift:
    """What is left after the affine map: (k, j, i, 3) mm, on a grid of the current CT with its origin (3,) and step."""

    mm: np.ndarray
    origin: np.ndarray
    step: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The drift (n, 3) at points (n, 3) in LPS mm of the current CT; beyond the grid that of its edge."""
        from scipy import ndimage

        places = ((points - self.origin) / self.step)[:, ::-1].T
        return np.stack(
            [ndimage.map_coordinates(self.mm[..., axis], places, order=1, mode="nearest") for axis in range(3)], axis=1
        )


@dataclass(frozen=True, eq=False, slots=True)
class Alignment:
    """The map between the prior and the current CT of one patient, and how far to trust it.

    Attributes
    ----------
    matrix: (4, 4), LPS mm of the current CT to those of the prior, without the drift.
    drift: what is added to a point of the current CT before; None for none.
    overlap_mm: how much of the body along z both show.
    similarity: correlation of the bodies, at most 1.
    residual_mm: how far a place may be off: nine of ten places of the body are nearer, as estimated.
    warnings: sentences that a reader must know.
    """

    matrix: np.ndarray = field(default_factory=lambda: np.eye(4))
    drift: Drift | None = None
    overlap_mm: float = float("inf")
    similarity: float = 1.0
    residual_mm: float = 0.0
    warnings: tuple[str, ...] = ()

    def to_prior(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) in LPS mm of the current CT, in those of the prior."""
        points = np.asarray(points, dtype=float)
        if self.drift is not None:
            points = points + self.drift(points)
        return points @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def to_current(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) in LPS mm of the prior CT, in those of the current."""
        back = np.linalg.inv(self.matrix)
        straight = np.asarray(points, dtype=float) @ back[:3, :3].T + back[:3, 3]
        if self.drift is None:
            return straight
        found = straight
        for _ in range(10):  # the drift is smooth, so that this converges
            found = straight - self.drift(found)
        return found


def align(prior: Volume, current: Volume) -> Alignment:
    """Where the `prior` CT lies in the `current` one of the same patient.

    Raises Refusal where the two show no part of the body in common, or too little of it to tell.
    """
    bodies = Body(current), Body(prior)
    starts = _starts(*bodies)
    if not starts:
        raise Refusal(_apart(prior, current))
    tried = [(start, *_refined(*bodies, start.rigid())) for start in starts]
    _, rigid, _ = max(tried, key=lambda one: one[2] - TURNED_BETTER_BY * one[0].turned)
    affine, _ = _refined(*bodies, _as_affine(rigid))
    matrix = _matrix(affine)
    if not _like_a_body(matrix):
        matrix = _matrix(rigid)
    drift, similarity, overlap_mm = _drift(*bodies, matrix)
    if similarity < LEAST_SIMILARITY or overlap_mm < LEAST_OVERLAP_MM:
        raise Refusal(_apart(prior, current))
    length = np.linalg.norm(drift.mm, axis=-1)[_coarse(bodies[0].mask, 2) > 0.5]
    residual = float(np.percentile(length, 90)) * _OFF_BY
    return Alignment(matrix, drift, overlap_mm, similarity, residual, _warnings(*bodies, matrix, similarity, residual))


def _like_a_body(matrix: np.ndarray) -> bool:
    """Whether a map keeps lengths nearly, as one patient's body does: with little overlap an affine map may not."""
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    return bool(np.abs(stretch - 1).max() <= MOST_STRETCH)


def _apart(prior: Volume, current: Volume) -> str:
    return (
        f"The CTs of study {prior.study} and study {current.study} show no part of the body in common, or less than "
        f"{LEAST_OVERLAP_MM / 10:.0f} cm of it along the body: check that both are of one patient, or give another "
        "series."
    )


def _warnings(current: Body, prior: Body, matrix: np.ndarray, similarity: float, residual_mm: float) -> tuple[str, ...]:
    found = []
    if similarity < DOUBTFUL_SIMILARITY or residual_mm > DOUBTFUL_MM:
        found.append(
            f"The prior CT fits the current one badly (alike by {similarity:.2f} of 1, places off by {residual_mm:.0f} "
            "mm): check that both are of one patient, and that lesions were matched in the right place."
        )
    if matrix[0, 0] < 0:
        found.append(
            "The prior CT had to be turned by half about the body's axis: the file of one of the two says wrongly how "
            "the patient lay."
        )
    sides = current.table_side, prior.table_side
    if all(sides) and sides[0] * (1 if matrix[0, 0] > 0 else -1) != sides[1]:
        found.append("The patient lay prone in one of the two CTs and supine in the other: organs have moved.")
    return tuple(found)


# ------ the body on a grid


class Body:
    """The body of a CT on a grid along LPS, the table left out.

    Attributes
    ----------
    origin: (3,) LPS mm of the voxel (0, 0, 0).
    mask, tone: (k, j, i), where the body is, and its HU by `TONE`, 0 outside.
    table_side: 1 if there is a table behind the body, -1 if it is in front, 0 if none is seen.
    """

    def __init__(self, volume: Volume) -> None:
        import SimpleITK as sitk  # noqa: N813
        from scipy import ndimage

        from LesionDetectorLib.plausible import patient_mask

        image = _on_grid(_shrunk(volume))
        self.origin = np.array(image.GetOrigin())
        hu = sitk.GetArrayFromImage(image)
        self.mask = patient_mask(hu, GRID_MM)
        self.tone = np.where(self.mask, np.interp(hu, TONE_HU, TONE), 0).astype(np.float32)
        self.image = self._image(self.tone)
        around = ndimage.binary_dilation(self.mask, iterations=2)
        self.around = self._image(around.astype(np.uint8))
        self.table_side = _table_side(hu, around)

    def _image(self, values: np.ndarray) -> sitk.Image:
        import SimpleITK as sitk  # noqa: N813

        image = sitk.GetImageFromArray(values)
        image.SetOrigin(self.origin.tolist())
        image.SetSpacing([GRID_MM] * 3)
        return image


def _shrunk(volume: Volume) -> sitk.Image:
    """The CT in voxels of about `GRID_MM`, each the mean of those that it covers."""
    import SimpleITK as sitk  # noqa: N813

    spacing = np.array(volume.spacing)
    step = np.clip(np.round(GRID_MM / spacing), 1, volume.hu.shape[::-1]).astype(int)
    values = _mean(volume.hu, step[::-1])
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((spacing * step).tolist())
    image.SetOrigin((np.array(volume.origin) + volume.direction @ ((step - 1) / 2 * spacing)).tolist())
    image.SetDirection(np.asarray(volume.direction, float).ravel().tolist())
    return image


def _mean(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Means of whole blocks of (k, j, i) steps, float32; along i before j and k, which is fastest."""
    depth, height, width = (size // step * step for size, step in zip(values.shape, steps))
    k, j, i = steps
    means = [
        plane[:height, :width].reshape(height // j, j, -1).mean(axis=1, dtype=np.float32) for plane in values[:depth]
    ]
    blocks = np.stack(means).reshape(depth // k, k, height // j, width // i, i)
    return np.ascontiguousarray(blocks.mean(axis=(1, 4), dtype=np.float32))


def _coarse(values: np.ndarray, step: int) -> np.ndarray:
    """Means of blocks of `step` voxels a side; what is left at the far edges is dropped."""
    return _mean(values, np.full(3, step))


def _on_grid(image: sitk.Image) -> sitk.Image:
    """The image on a grid of `GRID_MM` along LPS that covers it."""
    import SimpleITK as sitk  # noqa: N813

    ends = [(0, size - 1) for size in image.GetSize()]
    corners = np.array([image.TransformIndexToPhysicalPoint(corner) for corner in product(*ends)])
    low = corners.min(axis=0)
    size = np.floor((corners.max(axis=0) - low) / GRID_MM).astype(int) + 1
    axes = np.eye(3).ravel().tolist()
    return sitk.Resample(
        image, size.tolist(), sitk.Transform(), sitk.sitkLinear, low.tolist(), [GRID_MM] * 3, axes, -1024.0
    )


def _table_side(hu: np.ndarray, mask: np.ndarray) -> int:
    """1 if most of what is no air outside the body and its skin lies behind it, -1 if in front, 0 if there is hardly
    any."""
    rows = mask.any(axis=2)
    other = (hu > _TABLE_HU) & ~mask
    heights = np.arange(mask.shape[1])[None, :, None]
    middle = (heights[..., 0] * rows).sum(axis=1) / np.maximum(rows.sum(axis=1), 1)
    behind = int((other & (heights > middle[:, None, None])).sum())
    before = int((other & (heights < middle[:, None, None])).sum())
    if max(behind, before) < 4 * max(min(behind, before), len(hu)):
        return 0
    return 1 if behind > before else -1


# ------ the first guess


class Start(NamedTuple):
    """A first guess: how alike the bodies are, whether the prior is turned by half about z, the middles (x, y) of the
    current and the prior body where they overlap, and the shift from the current to the prior z, all in mm."""

    similarity: float
    turned: bool
    middle: np.ndarray
    prior_middle: np.ndarray
    shift_mm: float

    def rigid(self) -> sitk.Euler3DTransform:
        """The turn and shift from LPS mm of the current CT to the prior."""
        import SimpleITK as sitk  # noqa: N813

        start = sitk.Euler3DTransform()
        start.SetCenter([*self.middle, 0.0])
        start.SetRotation(0.0, 0.0, np.pi if self.turned else 0.0)
        start.SetTranslation([*(self.prior_middle - self.middle), self.shift_mm])
        return start


def _starts(current: Body, prior: Body) -> list[Start]:
    """The best guesses, best first: none that is a neighbour of a better one."""
    found = [start for turned in (False, True) for start in _guesses(current, prior, turned)]
    kept: list[Start] = []
    for start in sorted(found, key=lambda start: -start.similarity):
        near = 1.5 * COARSE * GRID_MM
        if all(start.turned != other.turned or abs(start.shift_mm - other.shift_mm) > near for other in kept):
            kept.append(start)
    return kept[:STARTS]


def _guesses(current: Body, prior: Body, turned: bool) -> list[Start]:
    """Every shift along z by which enough of both bodies overlaps, their middles laid over each other."""
    step = COARSE * GRID_MM
    turn = (slice(None), slice(None, None, -1), slice(None, None, -1)) if turned else slice(None)
    ours, theirs = (
        _Slices(_coarse(body.tone, COARSE)[part], _coarse(body.mask, COARSE)[part] > 0.5)
        for body, part in ((current, slice(None)), (prior, turn))
    )
    least = max(round(LEAST_OVERLAP_MM / step), 1)
    found = []
    for offset in range(least - len(theirs.mask), len(ours.mask) - least + 1):
        first, last = max(0, offset), min(len(ours.mask), offset + len(theirs.mask))
        here, there = ours.part(first, last), theirs.part(first - offset, last - offset)
        if not (here.tone.any() and there.tone.any()):
            continue
        similarity = _similarity(here, there)
        middle, other = here.middle, there.middle
        if turned:
            other = np.array(there.mask.shape[:0:-1]) - 1 - other
        places = [
            body.origin[:2] + place * step + (step - GRID_MM) / 2 for body, place in ((current, middle), (prior, other))
        ]
        shift = prior.origin[2] - current.origin[2] - offset * step
        found.append(Start(similarity, turned, places[0], places[1], float(shift)))
    return found


class _Slices(NamedTuple):
    """Some slices of a body: tone and mask (k, j, i)."""

    tone: np.ndarray
    mask: np.ndarray

    def part(self, first: int, last: int) -> _Slices:
        return _Slices(self.tone[first:last], self.mask[first:last])

    @property
    def middle(self) -> np.ndarray:
        """(i, j) of the middle of the body's tissue; air that the mask takes in hardly counts."""
        shadow = self.tone.sum(axis=0)
        rows, columns = np.arange(shadow.shape[0]), np.arange(shadow.shape[1])
        return np.array([shadow.sum(axis=0) @ columns, shadow.sum(axis=1) @ rows]) / shadow.sum()

    def around(self, middle: np.ndarray, size: np.ndarray) -> _Slices:
        """The same round its middle (i, j), (j, i) size voxels to all sides."""
        padded = [np.pad(part, ((0, 0), *((half, half) for half in size))) for part in self]
        i, j = np.round(middle).astype(int)
        window = slice(None), slice(j, j + 2 * size[0] + 1), slice(i, i + 2 * size[1] + 1)
        return _Slices(*(part[window] for part in padded))


def _similarity(one: _Slices, other: _Slices) -> float:
    """The correlation of two bodies, slice by slice, their middles laid over each other."""
    size = np.maximum(one.mask.shape, other.mask.shape)[1:] // 2
    one, other = one.around(one.middle, size), other.around(other.middle, size)
    either = one.mask | other.mask
    return _correlation(one.tone[either], other.tone[either])


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if not one.size:
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


# ------ the map


def _refined(current: Body, prior: Body, start: Linear) -> tuple[Linear, float]:
    """The map with as many parameters as `start` at which the bodies are most alike, and how alike, at most 1."""
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in one order
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(current.around)
    method.SetMetricMovingMask(prior.around)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_SAMPLED, seed=1)  # it moves points a little by chance
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([0])
    method.SetOptimizerAsRegularStepGradientDescent(3.0, 0.05, 60, 0.6, gradientMagnitudeTolerance=1e-7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, True)
    with _quiet():
        method.Execute(current.image, prior.image)
    return start, -method.GetMetricValue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the words of ITK on a map that leads out of the body: how alike the bodies are says it."""
    import SimpleITK as sitk  # noqa: N813

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _as_affine(rigid: Linear) -> sitk.AffineTransform:
    import SimpleITK as sitk  # noqa: N813

    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return affine


def _matrix(affine: Linear) -> np.ndarray:
    """(4, 4) from the LPS mm of the current CT to the prior's."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
    centre = np.array(affine.GetCenter())
    matrix[:3, 3] = centre + affine.GetTranslation() - matrix[:3, :3] @ centre
    return matrix


def _drift(current: Body, prior: Body, matrix: np.ndarray) -> tuple[Drift, float, float]:
    """The smooth drift that the affine map leaves, how alike the bodies are with it, and how much of the body along z
    both show, in mm.

    Optical flow after Lucas and Kanade: in a window round every place, the shift by which the prior fits best to first
    order, a few times. Where a window is flat nothing tells a shift, and it is small.
    """
    from scipy import ndimage

    step = 2 * GRID_MM
    tone, mask = _coarse(current.tone, 2), _coarse(current.mask, 2) > 0.5
    theirs, seen = _coarse(prior.tone, 2), _coarse(np.ones_like(prior.mask), 2)
    origin, prior_origin = current.origin + GRID_MM / 2, prior.origin + GRID_MM / 2
    grid = np.stack(np.meshgrid(*map(np.arange, tone.shape), indexing="ij"), axis=-1)[..., ::-1] * step + origin
    drift = np.zeros((*tone.shape, 3))
    for left in range(_DRIFT_STEPS, -1, -1):
        places = (grid + drift) @ matrix[:3, :3].T + matrix[:3, 3]
        places = np.moveaxis((places - prior_origin) / step, -1, 0)[::-1]
        moved = ndimage.map_coordinates(theirs, places, order=1)
        both = mask & (ndimage.map_coordinates(seen, places, order=1) > 0.5)
        if not left:
            break
        slope = np.where(both[..., None], np.stack(np.gradient(moved, step)[::-1], axis=-1), 0)
        missing = np.where(both, tone - moved, 0)
        drift = np.clip(drift + _flow(slope, missing), -FAR_MM, FAR_MM)
    deep = both.any(axis=(1, 2)).sum()
    return Drift(drift, origin, step), _correlation(tone[both], moved[both]), float(deep * step)


def _flow(slope: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The shift (k, j, i, 3) that explains what is `missing` (k, j, i) by the `slope` (k, j, i, 3) in each window."""
    from scipy import ndimage

    def window(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, _DRIFT_SIGMA, truncate=2.5)

    normal = np.empty((*missing.shape, 3, 3))
    for one, other in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        normal[..., one, other] = normal[..., other, one] = window(slope[..., one] * slope[..., other])
    right = np.stack([window(slope[..., axis] * missing) for axis in range(3)], axis=-1)
    return np.linalg.solve(normal + _FLAT * np.eye(3), right[..., None])[..., 0]
