"""A CT from DICOM files: the slices of one series, put together at their true positions."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom

from .dicom_slices import MALFORMED, TAGS, TELLING, Image, Slice, read_image
from .grid import even_positions, interpolate_slices, shift_slices, sideways_shift, tilt
from .volume import AIR, CTError, Placed, Volume, check_hu, to_hu

SAME_PLACE = 0.01  # mm
PATIENT = {
    "PatientName": "Patient",
    "PatientID": "Patient ID",
    "PatientBirthDate": "Birth date",
    "PatientSex": "Sex",
    "StudyDate": "Study date",
}
MOST_NAMED = 4
MOST_AT_A_PLACE = 4  # images that their numbers alone tell apart, as of phases without any other header
KNOWN_KINDS = "a DICOM folder or file, a .nrrd, .nii.gz or .mha file, or a DeepLesion folder"


def read(path: Path, series: str | None = None, progress: Callable[[int, int], None] | None = None) -> Volume:
    """The axial CT series with most slices under a folder, or `series`; for one file the series of that file in its folder.

    Raises CTError where there is no such series or its slices cannot be put together.
    """
    return _assemble(path, *read_slices(path, series), progress)


def read_slices(
    path: Path, series: str | None = None, tags: list[str] | None = TAGS, files: Iterable[Path] | None = None
) -> tuple[list[Slice], list[str]]:
    """The slices that `read` makes its volume of, from feet to head, without their pixels, and what was left out.

    Their headers hold `tags` alone, or for None all that there is before the pixels. Only `files` are looked at where they are given.
    Raises CTError where there is no such series.
    """
    images, warnings = _images(path, tags, files)
    if path.is_file() and series is None:
        series = next(image.series for image in images if image.path == path)
    slices, more = _choose_series(path, images, series)
    warnings += more
    for select in (_one_stack, _one_acquisition, _one_kind, _one_per_place):
        slices, more = select(slices, path)
        warnings += more
    return slices, warnings


def thickest(slices: list[Slice]) -> float | None:
    """The nominal thickness of the thickest slice in mm; None where the headers do not tell."""
    thickness = max(item.thickness for item in slices)
    return thickness if 0 < thickness < np.inf else None


def read_patient(path: Path | str, series: str) -> dict[str, str]:
    """Who the patient of `series` is and when the study was made, as the headers under `path` say, by names for a report.

    What they do not say is left out. Raises CTError where `path` has no such series.
    """
    file = next((image.path for image in _images(Path(path))[0] if image.series == series), None)
    if file is None:
        raise CTError(f"{path} has no series {series}: give the CT of the reading.")
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(PATIENT))
    values = {name: " ".join(str(header.get(tag) or "").replace("^", " ").split()) for tag, name in PATIENT.items()}
    return {name: _iso_date(value) if "date" in name else value for name, value in values.items() if value}


def _iso_date(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if len(value) == 8 and value.isdigit() else value


def without_pixels(path: Path, slices: list[Slice], warnings: list[str]) -> Volume:
    """The volume that `read` makes of `slices`, for its geometry and identifiers alone: all its voxels are air."""
    return _assemble(path, slices, warnings, pixels=False)


def _images(path: Path, tags: list[str] | None = TAGS, files: Iterable[Path] | None = None) -> tuple[list[Image], list[str]]:
    """The DICOM files among `files`, of a folder, or of the folder of a file, and a warning about those that are damaged."""
    if not path.exists():
        raise CTError(f"{path} does not exist: check the path.")
    if path.is_file():
        _check_file(path)
    files = files or (path.rglob("*") if path.is_dir() else path.parent.iterdir())
    files = sorted(file for file in files if file.is_file())
    if not files:
        raise CTError(f"{path} is empty: give {KNOWN_KINDS}.")
    images, damaged = [], []
    for file in files:
        try:
            image = read_image(file, tags)
        except MALFORMED:
            damaged.append(file.name)
        else:
            images += [image] if image else []
    if not images and damaged:
        raise CTError(f"The DICOM files in {path} are damaged or hold no pixel data, such as {damaged[0]}: copy or export them again.")
    if not images:
        raise CTError(f"None of the {len(files)} files in {path} is DICOM, such as {files[0].name}: give {KNOWN_KINDS}.")
    text = f"{len(damaged)} DICOM files that are damaged or hold no pixel data were left out, such as {', '.join(damaged[:1])}."
    return images, [text] if damaged else []


def _check_file(path: Path) -> None:
    """CTError unless `path` itself is a DICOM file that can be a slice."""
    try:
        image = read_image(path)
    except MALFORMED as error:
        raise CTError(f"{path} is damaged or holds no pixel data: copy or export it again.") from error
    if image is None:
        raise CTError(f"{path} is a file of unknown kind: give {KNOWN_KINDS}.")
    if image.unfit:
        raise CTError(f"{path} is an image {image.unfit}: give an axial CT.")


def _choose_series(path: Path, images: list[Image], series: str | None) -> tuple[list[Slice], list[str]]:
    """The slices of `series`, or of the series with most axial CT slices, and what was left out."""
    found: dict[str, list[Slice]] = defaultdict(list)
    unfit: dict[str, Counter[str]] = defaultdict(Counter)
    for image in images:
        if image.unfit:
            unfit[image.series][image.unfit] += 1
        else:
            found[image.series] += image.slices
    if series is None and found:
        _refuse_scattered(path, found)
        series = min(found, key=lambda uid: (_is_of_a_kind(found[uid]), -len(found[uid]), uid))
    elif series is None:
        raise CTError(f"{path} holds no axial CT ({_count(sum(unfit.values(), Counter()))}): give {KNOWN_KINDS}.")
    elif series not in found and series in unfit:
        raise CTError(f"Series {series} of {path} is no axial CT ({_count(unfit[series])}): choose another, or give none.")
    elif series not in found:
        raise CTError(f"{path} has no series {series}: its axial CT series are {_sizes(found)}.")
    warnings = []
    if unfit[series]:
        warnings.append(f"Some images of the series were left out: {_count(unfit[series])}.")
    kinds = Counter(item.kind for item in found[series])
    ((kind, _),) = kinds.most_common(1)
    if kind:
        warnings.append(f"This series is {kind}, by its headers: what is measured on it need not be so in the patient.")
    elif len(kinds) > 1:
        found[series] = [item for item in found[series] if not item.kind]
        names = ", ".join(f"{count} of {name}" for name, count in kinds.items() if name)
        warnings.append(f"Some images of the series were left out: {names}.")
    others = {uid: slices for uid, slices in found.items() if uid != series}
    if others:
        warnings.append(f"Series {series} with {len(found[series])} slices was read; there are other axial CT series: {_sizes(others)}.")
    return found[series], warnings


def _is_of_a_kind(slices: list[Slice]) -> bool:
    """Whether most images of a series are no plain axial CT."""
    return sum(bool(item.kind) for item in slices) * 2 > len(slices)


def _refuse_scattered(path: Path, found: dict[str, list[Slice]]) -> None:
    """CTError where each slice has a series of its own, of which only one could be read."""
    places = {tuple(np.round(slices[0].origin, 1)) for slices in found.values()}
    planes = {slices[0].plane for slices in found.values()}
    if len(found) > 2 and max(map(len, found.values())) == 1 and len(places) == len(found) and len(planes) == 1:
        raise CTError(
            f"{path} holds {len(found)} axial CT series of one slice each, side by side: they seem to be one series whose slices were "
            "given a SeriesInstanceUID each. Export the series again, or choose one slice with --series."
        )


def _count(reasons: Counter[str]) -> str:
    return ", ".join(f"{number} image{'s' * (number > 1)} {reason}" for reason, number in reasons.most_common())


def _sizes(found: dict[str, list[Slice]]) -> str:
    shown = [f"{uid} ({len(slices)} slice{'s' * (len(slices) != 1)})" for uid, slices in list(found.items())[:MOST_NAMED]]
    more = [f"and {len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
    return ", ".join(shown + more) or "none"


def _one_stack(slices: list[Slice], path: Path) -> tuple[list[Slice], list[str]]:
    """The most slices that share orientation, matrix and pixel spacing, in order from feet to head."""
    stacks: dict[tuple[float, ...], list[Slice]] = defaultdict(list)
    for item in slices:
        stacks[item.plane].append(item)
    stack = max(stacks.values(), key=len)
    normal = stack[0].normal
    stack.sort(key=lambda item: (item.origin @ normal, item.order))
    left = len(slices) - len(stack)
    text = f"{left} of {len(slices)} slices differ from the others in orientation, matrix or pixel spacing and were left out."
    return stack, [text] if left else []


def _one_acquisition(slices: list[Slice], path: Path) -> tuple[list[Slice], list[str]]:
    """Without acquisitions that go over the same part of the body again (phases); the one with most slices, else the first, stays."""
    normal = slices[0].normal
    acquisitions: dict[int, list[Slice]] = defaultdict(list)
    for item in slices:
        acquisitions[item.acquisition].append(item)
    extents = {number: (items[0].origin @ normal, items[-1].origin @ normal) for number, items in acquisitions.items()}
    kept: list[int] = []
    for number in sorted(acquisitions, key=lambda number: (-len(acquisitions[number]), number)):
        if not any(_overlap(extents[number], extents[other]) for other in kept):
            kept.append(number)
    dropped = sorted(set(acquisitions) - set(kept))
    names = ", ".join(map(str, sorted(kept))), ", ".join(map(str, dropped))
    text = f"Several acquisitions show the same region: acquisition {names[0]} was read, acquisition {names[1]} left out."
    return [item for item in slices if item.acquisition in kept], [text] if dropped else []


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether at least half of the extent `one`, in mm along the body, lies in `other`."""
    return min(one[1], other[1]) - max(one[0], other[0]) >= (one[1] - one[0]) / 2


def _one_kind(slices: list[Slice], path: Path) -> tuple[list[Slice], list[str]]:
    """Of images that share places, those that one header has in common: one phase, one energy, one reconstruction.

    A header parts them where images at one place differ in it and one of its values is there at half of the places or more; taken is the
    value at most places, of several the lowest.
    """
    warnings = []
    for keyword, name in TELLING.items():
        shared = [group for group in _places(slices) if len({item.traits.get(keyword) for item in group}) > 1]
        if not shared:
            continue
        at: dict[str, set[int]] = defaultdict(set)
        groups = _places(slices)
        for place, group in enumerate(groups):
            for item in group:
                at[item.traits.get(keyword, "")].add(place)
        chosen = min(at, key=lambda value: (-len(at[value]), _in_order(value)))
        if 2 * len(at[chosen]) < len(groups):
            continue
        left = ", ".join(value or "none" for value in sorted(set(at) - {chosen}, key=_in_order)[:MOST_NAMED])
        warnings.append(f"The series holds several images at each place, of unlike {name}: {chosen or 'none'} was read, {left} left out.")
        slices = [item for item in slices if item.traits.get(keyword, "") == chosen]
    return slices, warnings


def _in_order(value: str) -> tuple[float, str]:
    """Sorts numbers by their size, and before other texts."""
    try:
        return float(value), value
    except ValueError:
        return np.inf, value


def _places(slices: list[Slice]) -> list[list[Slice]]:
    """The slices, which are in order, by their positions along the normal."""
    positions = [item.origin @ slices[0].normal for item in slices]
    groups: list[list[Slice]] = []
    for item, step in zip(slices, np.diff(positions, prepend=-np.inf)):
        if step > SAME_PLACE:
            groups.append([])
        groups[-1].append(item)
    return groups


def _one_per_place(slices: list[Slice], path: Path) -> tuple[list[Slice], list[str]]:
    """The first slice at each place, by acquisition and number; CTError where nothing in the headers tells which that is."""
    groups = _places(slices)
    for group in groups:
        unlike = {(item.uid, item.frame): item for item in group}.values()
        numbers = {(item.acquisition, item.instance) for item in unlike}
        if len(numbers) < len(unlike) and not _are_alike(list(unlike)):
            raise CTError(
                f"{path} holds several images at one place that nothing in their headers tells apart, such as {group[0].path.name} and "
                f"{group[1].path.name}: they may be phases, energies or reconstructions. Export one of them alone."
            )
        if len(unlike) > MOST_AT_A_PLACE:
            raise CTError(
                f"{path} has {len(unlike)} images at one place, which is no CT of a volume, or its positions are wrong: export it again."
            )
    kept = [min(group, key=lambda item: (item.acquisition, item.order)) for group in groups]
    left = len(slices) - len(kept)
    return kept, [f"{left} of {len(slices)} slices lie at the place of another and were left out."] if left else []


def _are_alike(slices: list[Slice]) -> bool:
    """Whether images have the same pixels: one image under several identifiers."""
    first, *others = [_decode(item.path)[item.frame] for item in slices]
    return all(np.array_equal(first, other) for other in others)


def _assemble(
    path: Path, slices: list[Slice], warnings: list[str], progress: Callable[[int, int], None] | None = None, pixels: bool = True
) -> Volume:
    """The volume of slices in order, on an upright and even grid and in the usual view; without `pixels` it is filled with air."""
    first = slices[0]
    origins = np.array([item.origin for item in slices])
    even = even_positions(origins @ first.normal)
    shift = sideways_shift(origins, first.row, first.column, first.spacing)
    if len(even) > 2 * len(slices):
        raise CTError(f"{path} holds {len(slices)} of the {len(even)} slices that its series should have: export the whole series.")
    if (shift.max(axis=0) > first.shape[::-1]).any():
        raise CTError(f"The slices of {path} do not lie over one another: export the series again.")

    hu = _pixels(slices, progress) if pixels else np.broadcast_to(np.int16(AIR), (len(slices), *first.shape))
    warnings += check_hu(hu, path)
    uids = [item.uid for item in slices]
    if shift.any():
        hu, uids = shift_slices(hu, shift), [None] * len(uids)
        warnings.append(f"The series has {tilt(origins, first.row, first.column)}: its slices were shifted upright.")
    if len(even) != len(slices):
        distances = np.diff(origins @ first.normal)
        hu, sources = interpolate_slices(hu, origins @ first.normal, even)
        uids = [None if source is None else uids[source] for source in sources]
        warnings.append(
            f"Slices are missing or uneven (distances {distances.min():.2f} to {distances.max():.2f} mm): "
            f"{len(slices)} slices were resampled to {len(even)}, {even[1] - even[0]:.2f} mm apart."
        )
    if len(slices) == 1:
        warnings.append(f"{path} has one slice only: it stands in for its neighbours.")
    placed, *turned = _placed(hu, first, even, shift[0]).in_axial_view()
    if any(turned):
        uids = [None] * len(uids)
        warnings.append("The slices were turned so that the patient's left is on the right; pixels count otherwise than in the files.")
    return _volume(path, placed, slices, uids, warnings)


def _placed(hu: np.ndarray, first: Slice, positions: np.ndarray, shift: np.ndarray) -> Placed:
    """`hu` with its geometry: slices at even `positions` in mm from `first`, which was moved by `shift` (2,) in pixels."""
    in_plane = np.column_stack([first.row, first.column])
    step = positions[1] - positions[0] if len(positions) > 1 else first.thickness or 1.0
    origin = first.origin - in_plane @ (shift * first.spacing)
    return Placed(hu, origin, np.array([*first.spacing, step]), np.column_stack([in_plane, first.normal]))


def _volume(path: Path, placed: Placed, slices: list[Slice], uids: list[str | None], warnings: list[str]) -> Volume:
    header = slices[0].header
    series_uid = str(header.get("SeriesInstanceUID") or "")
    return Volume(
        hu=placed.hu,
        spacing=tuple(placed.spacing.tolist()),
        origin=tuple(placed.origin.tolist()),
        direction=placed.direction,
        source=path,
        study=str(header.get("StudyID") or "1"),
        series=str(header.get("SeriesNumber") or "1"),
        slice_thickness=thickest(slices),
        series_uid=series_uid or hashlib.blake2b(placed.hu, digest_size=16).hexdigest(),
        dicom={
            "study_uid": str(header.get("StudyInstanceUID") or ""),
            "series_uid": series_uid,
            "frame_of_reference_uid": str(header.get("FrameOfReferenceUID") or ""),
            "sop_instance_uids": uids,
        },
        warnings=tuple(warnings),
    )


def _pixels(slices: list[Slice], progress: Callable[[int, int], None] | None) -> np.ndarray:
    """(n, rows, columns) int16 HU of the slices; each file is decoded once, several at a time."""
    hu = np.empty((len(slices), *slices[0].shape), np.int16)
    places: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for k, item in enumerate(slices):
        places[item.path].append((k, item.frame))

    def load(path: Path) -> None:
        frames = _decode(path)
        if frames.shape[1:] != hu.shape[1:] or max(frame for _, frame in places[path]) >= len(frames):
            raise CTError(f"{path} holds fewer pixels than its header says: copy or export it again.")
        for k, frame in places[path]:
            hu[k] = to_hu(_without_padding(frames[frame], slices[k].padding))

    progress = progress or (lambda done, total: None)
    first, *others = places
    load(first)  # before any thread: ITK makes its global objects during the first reading, and threads at once would corrupt them
    progress(1, len(places))
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        for done, _ in enumerate(pool.map(load, others), start=2):
            progress(done, len(places))
    finally:
        pool.shutdown(cancel_futures=True)  # so that an error or Ctrl-C does not wait for the rest
    return hu


def _without_padding(values: np.ndarray, padding: tuple[float, float] | None) -> np.ndarray:
    """`values` (rows, columns) in HU with air in the place of padding.

    That is what hangs together with the border: inside the field of view a pixel of that value is metal at the end of the scale.
    """
    if padding is None:
        return values
    low, high = padding
    is_padding = (values >= low - 0.5) & (values <= high + 0.5)
    if not is_padding.any():
        return values
    from scipy import ndimage

    areas, _ = ndimage.label(is_padding)
    outside = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    return np.where(np.isin(areas, outside[outside > 0]), AIR, values)


def _decode(path: Path) -> np.ndarray:
    """(frames, rows, columns) pixels of a file, rescaled to Hounsfield units."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        return sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise CTError(f"The pixels of {path} are truncated or damaged, or rarely compressed: copy or export it again.") from error
