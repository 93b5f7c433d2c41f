"""What makes a synthetic lesion look like a tumour: how it grows, fronds at its edge, an uneven necrotic core, air
bronchograms, bone that is lost and made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from LesionDetectorLib.lesion import BodyPart

from train.synthetic.lesions import SyntheticLesion
from train.synthetic.shapes import Array

NECROTIC_FROM_MM = 11.0
CONSOLIDATED_FROM_MM = 8.0
HILUM_TO_MM = 11.0
"""Mean semi-axis (mm) up to which a node keeps a fatty hilum, and from which a lesion may be necrotic or consolidated
lung."""


def as_tumour(lesion: SyntheticLesion, rng: np.random.Generator) -> tuple[SyntheticLesion, float]:
    """The lesion with a tumour's outline and inside, and the share (0..1) of its radius by which it pushes what lies
    round it away; the rest it replaces."""
    size = float(np.mean(lesion.axes_mm))
    lesion = replace(lesion, mottle=ripples(rng, (size, size / 2, max(3.0, size / 4)), 0.3))
    if size > HILUM_TO_MM:
        lesion = replace(lesion, spots=lesion.spots[lesion.spots[:, 4] > 0])
    if lesion.body_part == BodyPart.BONE:
        return _in_bone(lesion, size, rng), 0.0
    if lesion.opacity < 1:
        return replace(lesion, fronds=_fronds(rng, size, rng.uniform(0.03, 0.1))), 0.0
    if lesion.body_part == BodyPart.LUNG and size > CONSOLIDATED_FROM_MM and rng.random() < 0.35:
        return _consolidation(lesion, size, rng), float(rng.uniform(0, 0.3))
    if size > NECROTIC_FROM_MM and rng.random() < 0.45:
        lesion = _necrotic(lesion, rng)
    if size > 6:
        lesion = replace(lesion, mottle_hu=float(rng.uniform(0, 14)))
    if size > 4 and lesion.tissue_hu > 20 and rng.random() < 0.35:
        blurred = float(rng.uniform(1.2, 2.0)) * lesion.edge_mm + 0.03 * size
        fronds = _fronds(rng, size, rng.uniform(0.06, 0.16))
        return replace(lesion, fronds=fronds, edge_mm=blurred), float(rng.uniform(0, 0.5))
    soft = lesion.body_part == BodyPart.LUNG
    return lesion, float(rng.uniform(0.3, 0.8) if soft else rng.uniform(0.6, 0.95))


def ripples(rng: np.random.Generator, lengths: tuple[float, ...], amplitude: float, each: int = 4) -> Array:
    """(n, 5) plane waves of random directions, some `each` of about the given lengths in mm, the shorter the weaker."""
    waves = []
    for order, length in enumerate(lengths):
        direction = rng.normal(size=(each, 3))
        direction *= (
            2 * np.pi / (length * rng.uniform(0.7, 1.4, (each, 1))) / np.linalg.norm(direction, axis=1)[:, None]
        )
        height = amplitude * 0.75**order * rng.uniform(0.6, 1.2, (each, 1))
        waves.append(np.hstack([direction, rng.uniform(0, 2 * np.pi, (each, 1)), height]))
    return np.concatenate(waves).astype(np.float32)


def _fronds(rng: np.random.Generator, size: float, amplitude: float) -> Array:
    """Of large lesions they are a smaller share of the radius."""
    amplitude *= min(1.0, (9.0 / size) ** 0.5)
    return ripples(rng, (1.3 * size, 0.7 * size, max(3.0, 0.35 * size)), amplitude)


def _necrotic(lesion: SyntheticLesion, rng: np.random.Generator) -> SyntheticLesion:
    """With a dark core and an enhancing rim; a cyst stays as it is."""
    if lesion.tissue_hu < 30:
        return lesion
    darker = max(8.0, lesion.tissue_hu - float(rng.uniform(25, 55)))
    return replace(lesion, core_radius=float(rng.uniform(0.4, 0.72)), core_hu=darker, rim_hu=float(rng.uniform(12, 45)))


def _consolidation(lesion: SyntheticLesion, size: float, rng: np.random.Generator) -> SyntheticLesion:
    """Lung without air but in its bronchi, ragged at the edge."""
    return replace(
        lesion,
        fronds=_fronds(rng, size, rng.uniform(0.1, 0.2)),
        tubes=_bronchi(rng, size) if rng.random() < 0.7 else lesion.tubes,
        tissue_hu=float(rng.uniform(10, 60)),
        core_radius=0.0,
        mottle_hu=float(rng.uniform(5, 25)),
        edge_mm=float(rng.uniform(1.0, 2.0)) + 0.04 * size,
    )


def _bronchi(rng: np.random.Generator, size: float) -> Array:
    """(n, 8) branches of one airway that enters from a side; each forks once."""
    inward = rng.normal(size=3) * [1, 1, 0.3]
    inward /= np.linalg.norm(inward)
    rods = []
    for _ in range(int(rng.integers(2, 4))):
        start = inward * -0.9 * size
        fork = start + (inward + rng.normal(0, 0.3, 3)) * size * rng.uniform(0.5, 0.9)
        radius = float(rng.uniform(0.9, 1.6))
        rods.append([*start, *fork, radius, -900])
        for _ in range(2):
            end = fork + (inward + rng.normal(0, 0.5, 3)) * size * rng.uniform(0.4, 0.8)
            rods.append([*fork, *end, 0.75 * radius, -850])
    return np.array(rods, np.float32)


def _in_bone(lesion: SyntheticLesion, size: float, rng: np.random.Generator) -> SyntheticLesion:
    """Ragged; a third of the lytic ones are mixed, with islands of dense bone, and some have a sclerotic rim."""
    lesion = replace(lesion, fronds=_fronds(rng, size, rng.uniform(0.03, 0.14)))
    if lesion.tissue_hu > 200:
        return replace(lesion, mottle_hu=float(rng.uniform(20, 120)))
    kind = rng.random()
    if kind < 0.35:
        return replace(lesion, mottle=lesion.mottle * 1.5, mottle_hu=float(rng.uniform(150, 300)), tissue_hu=200.0)
    return replace(lesion, rim_hu=float(rng.uniform(150, 400))) if kind < 0.55 else lesion
