"""Which lesion of one study is which of another: the lesions of all studies of a patient as sequences over time.

After Yan et al.'s lesion graph: lesions are its nodes, and an edge leads from each to those of other studies that are
near in place, size and label. Edges are taken from the nearest on, and never give a sequence two lesions of one study,
so that a lesion goes to the nearer of two. What is left over inside a lesion's former outline is a part that split off,
or that merged with it.

All places are mm of the current CT, into which `alignment` brings those of the priors. Nothing here reads pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

import numpy as np

from LesionDetectorLib.followup.alignment import Alignment
from LesionDetectorLib.lesion import Lesion, ReviewStatus
from LesionDetectorLib.measure.margins import margin_mm
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal

PLACE_MM = 8.0
"""How far off a lesion's middle is along each axis beside what the alignment tells: breathing, and the choice of the
key slice. Between readers' marks that an affine map brought together it is 4 to 7 mm, with long tails."""
PLACE_OF_SIZE = 0.15
"""How much of its long axis a middle is off: large lesions grow unevenly."""
SIZE_RATIO = 0.4
"""How much the logarithm of the diameter changes from study to study."""
OTHER_LABEL = 1.0
EMBEDDING = 0.15
"""How far apart the embeddings of one lesion are."""
FARTHEST = 3.5
"""Matches are nearer than this, in these tolerances."""
EVEN = 2.5
"""At this distance a match without rivals is as likely as none."""
DOUBLE = 0.25
"""Lesions of one study whose middles are nearer than so much of the smaller one's diameter are one, marked twice."""
TOO_SMALL_MM = 5.0


class Fate(StrEnum):
    """What became of a lesion in one study, seen from the studies before."""

    FIRST = "first seen"
    MATCHED = "matched"
    NEW = "new"
    VANISHED = "vanished"
    SPLIT = "split"
    MERGED = "merged"
    TOO_SMALL = "too small to measure"
    NOT_COVERED = "not covered"
    NOT_YET = "not yet there"


@dataclass(frozen=True, eq=False, slots=True)
class Study:
    """One study to be matched.

    Attributes
    ----------
    reading: its lesions; those that its report shows are matched.
    alignment: the way from it to the current CT; the current CT itself has `Alignment()`.
    unread: slices k that nobody and nothing looked at.
    embeddings: of lesions, by id, where there are some.
    """

    reading: Reading
    alignment: Alignment = field(default_factory=Alignment)
    unread: frozenset[int] = frozenset()
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)

    def covers(self, point: np.ndarray, margin_mm: float = 0.0) -> bool:
        """Whether slices that were read show a point (3,) in LPS mm of the current CT, `margin_mm` or more inside."""
        geometry = self.reading.geometry
        size = np.array(geometry.size)
        (index,) = geometry.to_index(self.alignment.to_prior(point[None]))
        margin = np.minimum(margin_mm / np.array(geometry.spacing), (size - 1) / 2) - 0.5
        inside = bool(((index >= margin) & (index <= size - 1 - margin)).all())
        return inside and round(index[2]) not in self.unread


@dataclass(frozen=True, eq=False, slots=True)
class Match:
    """Two lesions of two studies that are one: their distance in tolerances, 0 for the same place, size and label; how
    far apart they are in mm; and how sure it is, 0..1, that it is this pair and no other or none."""

    earlier: Lesion
    later: Lesion
    distance: float
    apart_mm: float
    sureness: float


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """One lesion of the patient over all studies.

    Attributes
    ----------
    lesions: of each study the lesions that are it: none, one, or its parts, the first of which is the one matched.
    fates: of each study.
    matches: between each study that has it and the next one that does.
    """

    lesions: tuple[tuple[Lesion, ...], ...]
    fates: tuple[Fate, ...]
    matches: tuple[Match, ...]


@dataclass(frozen=True, eq=False, slots=True)
class _Node:
    """A lesion of a study: its middle (3,) in LPS mm of the current CT, long axis and mean diameter in mm, and how far
    off (x, y, z) the middle may be, by the alignment and the slices."""

    study: int
    lesion: Lesion
    middle: np.ndarray
    long_mm: float
    mean_mm: float
    off_mm: np.ndarray
    embedding: np.ndarray | None


def match(studies: Sequence[Study]) -> list[Track]:
    """The lesions of a patient's studies, in order of time, as tracks, those that were seen first first.

    A lesion that a study does not show, because its place lies outside of the field of view or on slices that were not
    read, is not covered there, and neither new nor vanished. Of a lesion that is marked twice in a study the one that a
    reader accepted stands for both, or the surer one.

    Raises Refusal for fewer than two studies.
    """
    if len(studies) < 2:
        raise Refusal("Lesions are followed over two studies or more: give another study of the patient.")
    nodes = [_nodes(number, study) for number, study in enumerate(studies)]
    links = _links(nodes)
    groups = _with_parts(_groups(nodes, links))
    return [_track(studies, group, links) for group in sorted(groups, key=_first_seen)]


def _first_seen(group: list[list[_Node]]) -> tuple[int, int, str]:
    study = next(number for number, here in enumerate(group) if here)
    return study, group[study][0].lesion.key_slice, group[study][0].lesion.id


# ------ nodes


def _nodes(number: int, study: Study) -> list[_Node]:
    """The lesions that the report of a study shows, each but once."""
    found = [_node(number, study, lesion) for lesion in study.reading.reported]
    found.sort(key=lambda node: (node.lesion.status is not ReviewStatus.ACCEPTED, -(node.lesion.confidence or 1)))
    kept: list[_Node] = []
    for node in found:
        if not any(
            np.linalg.norm(node.middle - other.middle) < DOUBLE * min(node.mean_mm, other.mean_mm) for other in kept
        ):
            kept.append(node)
    return kept


def _node(number: int, study: Study, lesion: Lesion) -> _Node:
    geometry = study.reading.geometry
    spacing = np.array(geometry.spacing)
    if lesion.recist is None:
        corners = np.reshape(lesion.box, (2, 2))
        sides = np.maximum(np.ptp(corners, axis=0) * spacing[:2] - 2 * margin_mm(lesion.origin), 1.0)
        long_mm, short_mm = float(sides.max()), float(sides.min())
    else:
        corners = np.array([*lesion.recist.long_axis, *lesion.recist.short_axis])
        long_mm, short_mm = lesion.recist.long_mm, max(lesion.recist.short_mm, 1.0)
    place = [*(corners.min(axis=0) + corners.max(axis=0)) / 2, sum(lesion.slices) / 2]
    (middle,) = study.alignment.to_current(geometry.to_lps([place]))
    off = study.alignment.residual_mm / _P90 + spacing[2] / 2 * np.abs(np.array(geometry.direction)[:, 2])
    embedding = study.embeddings.get(lesion.id)
    return _Node(number, lesion, middle, long_mm, float(np.sqrt(long_mm * short_mm)), off, embedding)


_P90 = 2.5
"""Nine of ten points are nearer than so many standard deviations along each of three axes."""


# ------ edges


@dataclass(frozen=True, eq=False, slots=True)
class _Link:
    """An edge of the graph."""

    earlier: _Node
    later: _Node
    distance: float
    sureness: float


def _links(nodes: Sequence[Sequence[_Node]]) -> list[_Link]:
    """All edges between studies that are short enough, the shortest first."""
    found = []
    for later, ours in enumerate(nodes):
        for theirs in nodes[:later]:
            if not (ours and theirs):
                continue
            distances = _distances(theirs, ours)
            likely = np.exp(-(distances**2) / 2)
            rivals = likely.sum(axis=0)[None] + likely.sum(axis=1)[:, None] - likely
            sureness = likely / (rivals + np.exp(-(EVEN**2) / 2))
            found += [
                _Link(theirs[i], ours[j], float(distances[i, j]), float(sureness[i, j]))
                for i, j in np.argwhere(distances < FARTHEST)
            ]
    return sorted(found, key=lambda link: link.distance)


def _distances(ones: Sequence[_Node], others: Sequence[_Node]) -> np.ndarray:
    """(n, m) distances in tolerances: of place, size, label and, where both have one, embedding."""
    middles, long_mm, mean_mm, off_mm = (
        (np.array([getattr(node, name) for node in ones])[:, None], np.array([getattr(node, name) for node in others]))
        for name in ("middle", "long_mm", "mean_mm", "off_mm")
    )
    of_size = PLACE_OF_SIZE * np.minimum(*long_mm)[..., None]
    tolerance = PLACE_MM**2 + of_size**2 + off_mm[0] ** 2 + off_mm[1] ** 2
    squared = ((middles[0] - middles[1]) ** 2 / tolerance).sum(axis=-1)
    squared += (np.log(mean_mm[0] / mean_mm[1]) / SIZE_RATIO) ** 2
    labels = [np.array([node.lesion.body_part for node in nodes]) for nodes in (ones, others)]
    squared += OTHER_LABEL**2 * (labels[0][:, None] != labels[1])
    for i, one in enumerate(ones):
        for j, other in enumerate(others):
            if one.embedding is not None and other.embedding is not None:
                squared[i, j] += float(np.sum((one.embedding - other.embedding) ** 2)) / EMBEDDING**2
    return np.sqrt(squared)


# ------ groups


def _groups(nodes: Sequence[Sequence[_Node]], links: Sequence[_Link]) -> list[list[list[_Node]]]:
    """Groups of nodes that edges join, of each study one node at most; of each group the nodes by study.

    The shortest edges go first, so that a node whose nearest is taken by a nearer one of its own study is left out.
    """
    group_of = {id(node): {node.study: node} for here in nodes for node in here}
    for link in links:
        one, other = group_of[id(link.earlier)], group_of[id(link.later)]
        if one is not other and not one.keys() & other.keys():
            one.update(other)
            group_of.update({id(node): one for node in other.values()})
    groups = {id(group): group for group in group_of.values()}
    return [[[group[number]] if number in group else [] for number in range(len(nodes))] for group in groups.values()]


def _with_parts(groups: list[list[list[_Node]]]) -> list[list[list[_Node]]]:
    """The groups, those added to another that are a part which split off from it, or merged with it."""
    whole = [group for group in groups if sum(map(bool, group)) > 1]
    left = sorted((group for group in groups), key=lambda group: sum(map(bool, group)))
    gone: set[int] = set()
    for part in left:
        owner = next((group for group in whole if id(group) not in gone and _is_part(part, group)), None)
        if owner is not None:
            gone.add(id(part))
            for here, more in zip(owner, part):
                here += more
    return [group for group in groups if id(group) not in gone]


def _is_part(part: list[list[_Node]], group: list[list[_Node]]) -> bool:
    """Whether a group of lesions came out of the outline that another had in the last study before, or went into that
    which it has in the next one after."""
    if part is group:
        return False
    studies = [number for number, here in enumerate(part) if here]
    first, last = studies[0], studies[-1]
    before = [number for number in range(first) if group[number]]
    after = [number for number in range(last + 1, len(group)) if group[number]]
    split = bool(before and group[first]) and _inside(part[first][0], group[before[-1]][0], group[first][0])
    merged = bool(after and group[last]) and _inside(part[last][0], group[after[0]][0], group[last][0])
    return split or merged


def _inside(part: _Node, whole: _Node, other: _Node) -> bool:
    """Whether a lesion is a part, beside an `other`, of a `whole` in another study: inside its outline, and smaller."""
    apart = float(np.linalg.norm(part.middle - whole.middle))
    reach = whole.long_mm / 2 + float(np.hypot(part.off_mm, whole.off_mm).max())
    return apart <= reach and max(part.mean_mm, other.mean_mm) < whole.mean_mm


# ------ tracks


def _track(studies: Sequence[Study], group: list[list[_Node]], links: Sequence[_Link]) -> Track:
    seen = [number for number, here in enumerate(group) if here]
    heads = [group[number][0] for number in seen]
    steps = [_match_of(one, other, links) for one, other in pairwise(heads)]
    fates = tuple(_fate(studies, group, number, seen) for number in range(len(studies)))
    return Track(tuple(tuple(node.lesion for node in here) for here in group), fates, tuple(steps))


def _match_of(one: _Node, other: _Node, links: Sequence[_Link]) -> Match:
    """The match of two nodes of a group; where others link them, it is as sure as their own edge would be."""
    apart = float(np.linalg.norm(one.middle - other.middle))
    link = next((link for link in links if link.earlier is one and link.later is other), None)
    distance = link.distance if link else float(_distances([one], [other])[0, 0])
    return Match(one.lesion, other.lesion, distance, apart, link.sureness if link else 0.0)


def _fate(studies: Sequence[Study], group: list[list[_Node]], number: int, seen: list[int]) -> Fate:
    here = group[number]
    before = [earlier for earlier in seen if earlier < number]
    if not here:
        node = group[before[-1] if before else seen[0]][0]
        if not studies[number].covers(node.middle, _margin(node)):
            return Fate.NOT_COVERED
        return Fate.VANISHED if before else Fate.NOT_YET
    if not before:
        place = here[0].middle
        covered = any(study.covers(place, _margin(here[0])) for study in studies[:number])
        return Fate.NEW if covered else Fate.FIRST
    parts = len(group[before[-1]])
    if len(here) != parts:
        return Fate.SPLIT if len(here) > parts else Fate.MERGED
    recist = here[0].lesion.recist
    return Fate.TOO_SMALL if recist is not None and recist.long_mm < TOO_SMALL_MM else Fate.MATCHED


def _margin(node: _Node) -> float:
    """How far inside a CT a lesion's place must lie to be missed there."""
    return PLACE_MM + float(node.off_mm.max())
