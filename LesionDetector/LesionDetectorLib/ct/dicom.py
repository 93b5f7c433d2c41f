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

from LesionDetectorLib.ct.dicom_phases import one_of_each, places, without_copies
from LesionDetectorLib.ct.dicom_slices import MALFORMED, TAGS, Image, Slice, read_image
from LesionDetectorLib.ct.geometry import DicomSeries
from LesionDetectorLib.ct.grid import even_positions, interpolate_slices, shift_slices, sideways_shift, tilt
from LesionDetectorLib.ct.volume import AIR, HIGHEST, CTError, Placed, Volume, check_hu, to_hu
from LesionDetectorLib.words import few, plural

PATIENT = {
    "PatientName": "Patient",
    "PatientID": "Patient ID",
    "PatientBirthDate": "Birth date",
    "PatientSex": "Sex",
    "StudyDate": "Study date",
}
ABOVE_TISSUE = 3000  # HU
KNOWN_KINDS = "a DICOM folder or file, a .nrrd, .nii.gz or .mha file, or a DeepLesion folder"


def read(path: Path, series: str | None = None, progress: Callable[[int, int], None] | None = None) -> Volume:
    """The axial CT series that `_choose_series` chooses under a folder, or `series`.

    For one file the series of that file in its folder.

    Raises CTError where there is no such series or its slices cannot be put together.
    """
    return _assemble(path, *read_slices(path, series), progress)


def read_slices(
    path: Path, series: str | None = None, tags: list[str] | None = TAGS, files: Iterable[Path] | None = None
) -> tuple[list[Slice], list[str]]:
    """The slices that `read` makes its volume of, from feet to head, without their pixels, and what was left out.

    Their headers hold `tags` alone, or for None all that there is before the pixels. Only `files` are looked at where
    they are given. Raises CTError where there is no such series, or where its slices lie at the places of others and no
    header tells which belong together.
    """
    images, warnings = _images(path, tags, files)
    if path.is_file() and series is None:
        series = next(image.series for image in images if image.path == path)
    slices, more = _choose_series(path, images, series)
    warnings += more
    for select in (without_copies, _one_stack, one_of_each, _one_per_place):
        slices, more = select(slices)
        warnings += more
    return slices, warnings


def thickest(slices: list[Slice]) -> float | None:
    """The nominal thickness of the thickest slice in mm; None where the headers do not tell."""
    thickness = max(item.thickness for item in slices)
    return thickness if 0 < thickness < np.inf else None


def read_patient(path: Path | str, series: str) -> dict[str, str]:
    """Who the patient of `series` is and when the study was made, as the headers under `path` say, by names for a
    report.

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


def _images(
    path: Path, tags: list[str] | None = TAGS, files: Iterable[Path] | None = None
) -> tuple[list[Image], list[str]]:
    """The DICOM files among `files`, of a folder, or of the folder of a file, and a warning about those that are
    damaged."""
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
        raise CTError(
            f"The DICOM files in {path} are damaged or hold no pixel data, such as {damaged[0]}: copy or export them "
            "again."
        )
    if not images:
        raise CTError(
            f"None of the {len(files)} files in {path} is DICOM, such as {files[0].name}: give {KNOWN_KINDS}."
        )
    if not damaged:
        return images, []
    if len(damaged) == 1:
        return images, [f"The DICOM file {damaged[0]} is damaged or holds no pixel data and was left out."]
    return images, [
        f"{len(damaged)} DICOM files that are damaged or hold no pixel data were left out, such as {damaged[0]}."
    ]


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
    """The slices of `series`, or of the most suitable series: as taken rather than derived, with most places.

    And what was left out.
    """
    found: dict[str, list[Slice]] = defaultdict(list)
    unfit: dict[str, Counter[str]] = defaultdict(Counter)
    for image in images:
        if image.unfit:
            unfit[image.series][image.unfit] += 1
        else:
            found[image.series] += image.slices
    if series is None and found:
        series = min(found, key=lambda uid: _suitability(found[uid]))
    elif series is None:
        raise CTError(f"{path} holds no axial CT ({_count(sum(unfit.values(), Counter()))}): give {KNOWN_KINDS}.")
    elif series not in found and series in unfit:
        raise CTError(
            f"Series {series} of {path} is not an axial CT ({_count(unfit[series])}): choose another, or give none."
        )
    elif series not in found:
        raise CTError(f"{path} has no series {series}: its axial CT series are {_sizes(found)}.")
    slices, warnings = _without_projections(found.pop(series))
    if unfit[series]:
        warnings.append(f"Some images of the series were left out: {_count(unfit[series])}.")
    if _is_scattered(slices, found):
        warnings.append(
            f"{len(found) + 1} series of one slice each lie beside one another, as if every slice of one series had "
            "got a series of its own: export the CT again as one series."
        )
    elif found:
        read = f"Series {series} with {plural(len(slices), 'slice')} was read"
        warnings.append(f"{read}; there are other axial CT series: {_sizes(found)}.")
    return slices, warnings


def _suitability(slices: list[Slice]) -> tuple:
    """Sorts series so that the one to be read comes first: no projection, of several places, slices as they were
    taken, most places."""
    count = len({tuple(np.round(item.origin, 1)) for item in slices})
    first, rank = slices[0], min(item.rank for item in slices)
    return rank == 2, count == 1, rank, -count, int(first.header.get("SeriesNumber") or 0), first.series


def _without_projections(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """The plain slices of a series and what was left out.

    A series that has none stays, with a word about what its images are.
    """
    plain = [item for item in slices if item.rank < 2]
    if not plain:
        name, caution = slices[0].kind
        return slices, [f"The series is {name} (image type {slices[0].image_type}): {caution}."]
    left = Counter(f"of {item.kind[0]}" for item in slices if item.rank == 2)
    return plain, [f"Some images of the series were left out: {_count(left)}."] if left else []


def _is_scattered(slices: list[Slice], others: dict[str, list[Slice]]) -> bool:
    """Whether `slices` and all `others` are series of one slice each of one scan, at different places."""
    every = [slices, *others.values()]
    scans = {
        tuple(str(items[0].header.get(tag)) for tag in ("StudyInstanceUID", "FrameOfReferenceUID")) for items in every
    }
    heights = {round(float(items[0].origin @ slices[0].normal), 2) for items in every}
    return len(every) > 2 and all(len(items) == 1 for items in every) and len(scans) == 1 and len(heights) == len(every)


def _count(reasons: Counter[str]) -> str:
    return ", ".join(f"{plural(number, 'image')} {reason}" for reason, number in reasons.most_common())


def _sizes(found: dict[str, list[Slice]]) -> str:
    return few([f"{uid} ({plural(len(slices), 'slice')})" for uid, slices in found.items()]) or "none"


def _one_stack(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """The most slices that share orientation, matrix and pixel spacing, in order from feet to head."""
    stacks: dict[tuple[float, ...], list[Slice]] = defaultdict(list)
    for item in slices:
        stacks[item.plane].append(item)
    stack = min(stacks.values(), key=lambda stack: (-len(stack), stack[0].plane))
    normal = stack[0].normal
    stack.sort(key=lambda item: (item.origin @ normal, item.order))
    left = len(slices) - len(stack)
    text = (
        f"{left} of {len(slices)} slices differ from the others in orientation, matrix or pixel spacing and were left "
        "out."
    )
    return stack, [text] if left else []


def _one_per_place(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """The first slice at each position along the normal.

    Raises CTError where most places have several that are not alike, or more than one has such that nothing puts in
    order.
    """
    found = places(slices)
    left = len(slices) - len(found)
    unordered = sum(len({item.order[:2] for item in items}) < len(items) for items in found)
    if len(found) == 1 < left:
        raise CTError(
            f"All {len(slices)} slices of series {slices[0].series} lie at one place: export it again with its slice "
            "positions."
        )
    if (2 * left > len(found) or unordered > 1) and not all(map(_are_alike, found)):
        raise CTError(
            f"{left} of {len(slices)} slices of series {slices[0].series} lie at the place of another, and no header "
            "tells which of them "
            "belong together: export one energy, phase or reconstruction alone, or the series again with its slice "
            "positions."
        )
    kept = [min(items, key=lambda item: item.order) for items in found]
    return kept, [f"{left} of {len(slices)} slices lie at the place of another and were left out."] if left else []


def _are_alike(slices: list[Slice]) -> bool:
    """Whether all `slices` have the same pixels."""
    first, *others = slices
    pixels = _decode(first.path)[first.frame] if others else None
    return all(np.array_equal(pixels, _decode(other.path)[other.frame]) for other in others)


def _assemble(
    path: Path,
    slices: list[Slice],
    warnings: list[str],
    progress: Callable[[int, int], None] | None = None,
    pixels: bool = True,
) -> Volume:
    """The volume of slices in order, on an upright and even grid and in the usual view.

    Without `pixels` it is filled with air.
    """
    first = slices[0]
    origins = np.array([item.origin for item in slices])
    even = even_positions(origins @ first.normal)
    shift = sideways_shift(origins, first.row, first.column, first.spacing)
    if len(even) > 2 * len(slices):
        raise CTError(
            f"{path} holds {len(slices)} of the {len(even)} slices that its series should have: export the whole "
            "series."
        )
    if (shift.max(axis=0) > first.shape[::-1]).any():
        raise CTError(f"The slices of {path} do not lie over one another: export the series again.")

    hu = _pixels(slices, progress) if pixels else np.broadcast_to(np.int16(AIR), (len(slices), *first.shape))
    warnings += check_hu(hu, path)
    uids: list[str | None] = [item.uid for item in slices]
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
        warnings.append(
            "The slices were turned so that the patient's left is on the right; pixels count otherwise than in the "
            "files."
        )
    return _volume(path, placed, slices, uids, warnings)


def _placed(hu: np.ndarray, first: Slice, positions: np.ndarray, shift: np.ndarray) -> Placed:
    """`hu` with its geometry: slices at even `positions` in mm from `first`, which was moved by `shift` (2,) in
    pixels."""
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
        dicom=DicomSeries(
            study_uid=str(header.get("StudyInstanceUID") or ""),
            series_uid=series_uid,
            frame_of_reference_uid=str(header.get("FrameOfReferenceUID") or ""),
            sop_instance_uids=tuple(uids),
        ),
        warnings=tuple(warnings),
    )


def _pixels(slices: list[Slice], progress: Callable[[int, int], None] | None) -> np.ndarray:
    """(n, rows, columns) int16 HU of the slices; each file is decoded once, several at a time."""
    hu = np.empty((len(slices), *slices[0].shape), np.int16)
    sources: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for k, item in enumerate(slices):
        sources[item.path].append((k, item.frame))

    def load(path: Path) -> None:
        frames = _decode(path)
        if frames.shape[1:] != hu.shape[1:] or max(frame for _, frame in sources[path]) >= len(frames):
            raise CTError(f"{path} holds fewer pixels than its header says: copy or export it again.")
        for k, frame in sources[path]:
            hu[k] = to_hu(frames[frame])
            _pad(hu[k], slices[k].padding)

    progress = progress or (lambda done, total: None)
    first, *others = sources
    load(
        # before any thread: ITK makes its global objects during the first reading, and threads would corrupt them
        first
    )
    progress(1, len(sources))
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        for done, _ in enumerate(pool.map(load, others), start=2):
            progress(done, len(sources))
    finally:
        pool.shutdown(cancel_futures=True)  # so that an error or Ctrl-C does not wait for the rest
    return hu


def _pad(hu: np.ndarray, padding: tuple[float, float] | None) -> None:
    """Makes air of the pixels of a slice (rows, columns) that are `padding`, from the lowest to the highest HU, at
    its border.

    Only what hangs together with the border lies outside the field of view: inside it a pixel of that value is tissue,
    or metal at the end of the scale. A range of values among those of tissue is not padding, whatever the header says.
    """
    if padding is None or padding[1] <= AIR or padding[0] < min(padding[1], ABOVE_TISSUE):
        return
    low, high = np.clip(np.rint(padding), AIR, HIGHEST)
    is_padding = (hu >= low) & (hu <= high)
    if not any(edge.any() for edge in (is_padding[0], is_padding[-1], is_padding[:, 0], is_padding[:, -1])):
        return
    from scipy import ndimage

    areas, _ = ndimage.label(is_padding)
    outside = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    hu[np.isin(areas, outside[outside > 0])] = AIR


def _decode(path: Path) -> np.ndarray:
    """(frames, rows, columns) pixels of a file, rescaled to Hounsfield units."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        return sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise CTError(
            f"The pixels of {path} are truncated or damaged, or rarely compressed: copy or export it again."
        ) from error
