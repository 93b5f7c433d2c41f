"""Other people's programs on our DICOM reports: validators, and what OHIF makes of them.

On Debian: apt install dcmtk dicom3tools pixelmed-apps nodejs npm, then npm install --prefix
Testing/exchange/cornerstone. What is absent is skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib import ct
from LesionDetectorLib.exchange import dicom_codes, dicom_in
from LesionDetectorLib.exchange.dicom_source import Source, source_slices
from LesionDetectorLib.lesion import BodyPart, Lesion, Origin, ReviewStatus, stable_id
from LesionDetectorLib.measure import margins, outline
from LesionDetectorLib.reading import Reading, ordered

from Testing.helpers import dicom_readings
from Testing.helpers.dicom_readings import KINDS, MODELS, read_ct

REAL = {"cmb_crc_chest_dicom": "*.tar.gz", "ircad17_liver_tumours_dicom": "PATIENT_*.tar.gz"}
PIXELMED = Path("/usr/share/java/pixelmed.jar")
ADAPTERS = Path(__file__).parent / "cornerstone"


def run(*command: str | Path) -> str:
    """What a program prints; skips the test where the program is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}, which is not installed")
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


class Reports:
    """The SR and the SEG of a reading of the CT in `folder`, written to `out`."""

    def __init__(self, folder: Path, out: Path, volume: ct.Volume, reading: Reading) -> None:
        self.folder, self.reading = folder, reading
        self.sr, self.seg = out / "lesions.dcm", out / "outlines.dcm"
        slices = source_slices(folder, reading)
        dicom_readings.write_sr(self.sr, reading, slices)
        dicom_readings.write_seg(self.seg, reading, slices, volume)


def lesions_on(volume: ct.Volume, count: int) -> tuple[Lesion, ...]:
    """Lesions of all body parts in the middle of a CT, measured as those of the detector are."""
    random = np.random.default_rng(7)
    margin = margins.pixels(margins.DETECTOR_MARGIN_MM, volume.spacing)
    lesions = []
    for n in range(count):
        k, part, status = int(random.integers(2, len(volume.hu) - 2)), BodyPart(1 + n % 8), list(ReviewStatus)[n % 2]
        corner, size = random.uniform(150, 300, 2), random.uniform(18, 60, 2)
        box = (*corner.tolist(), *(corner + size).tolist())
        axes = outline.measure(volume.hu[k], volume.spacing[:2], box, margin)
        identifier = stable_id(volume.series_uid, k, box, part)
        lesions.append(Lesion(part, float(random.uniform(0.5, 1)), k, (k - 2, k + 1), box, axes, status, id=identifier))
    return tuple(ordered(lesions))


@pytest.fixture(scope="module", params=REAL)
def real(request, shared_data, tmp_path_factory) -> Reports:
    """Twenty lesions on a real CT."""
    folder, out = tmp_path_factory.mktemp("ct"), tmp_path_factory.mktemp("out")
    for archive in (shared_data / "ct" / request.param).glob(REAL[request.param]):
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
    volume = ct.read(folder)
    return Reports(folder, out, volume, Reading.of(volume, lesions_on(volume, 20), MODELS))


@pytest.fixture(scope="module", params=KINDS)
def phantom(request, tmp_path_factory) -> Reports:
    """A few lesions of each kind on a CT of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](folder / "ct")
    return Reports(folder / "ct", folder, *read_ct(folder / "ct"))


def well_formed(reports: Reports) -> None:
    """Asserts that dcmtk shows the SR, and that dciodvfy finds no error in SR and SEG."""
    shown = run("dsrdump", "+Pc", reports.sr)
    assert shown.count('(103339001,SCT,"Long Axis")') == sum(
        lesion.recist is not None for lesion in reports.reading.reported
    )
    assert "Error" not in shown
    for path in (reports.sr, reports.seg):
        assert "Error" not in run("dciodvfy", path)


def test_validators_find_no_error_on_a_real_ct(real):
    well_formed(real)


def test_validators_find_no_error_on_ct_of_any_kind(phantom):
    well_formed(phantom)


def test_template_validator_finds_no_error(real, tmp_path):
    """PixelMed alone checks the templates.

    It takes minutes for forty lesions, and where there is one box it asks for one in all groups.
    """
    if not PIXELMED.exists():
        pytest.skip(f"needs {PIXELMED}, from Debian's pixelmed-apps")
    first, second = real.reading.lesions[:2]
    # one image: less to check
    two = replace(real.reading, lesions=(first, second.edited(key_slice=first.key_slice, slices=first.slices)))
    dicom_readings.write_sr(tmp_path / "two.dcm", two, source_slices(real.folder, two))
    limits = [
        f"-Djdk.xml.xpath{limit}=0" for limit in ("TotalOpLimit", "ExprOpLimit", "ExprGrpLimit")
    ]  # Java's, too low for the templates
    # and what makes a short run short
    java = (
        "java",
        *limits,
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-cp",
        PIXELMED,
    )
    checks = ("-checkcontentitemorder", "-checktemplateid")
    said = run(*java, "com.pixelmed.validate.DicomSRValidator", *checks, tmp_path / "two.dcm")
    assert "Found Root Template TID_1500" in said
    assert "Root Template Validation Complete" in said
    assert "IOD validation complete" in said
    assert "Error" not in said


def in_ohif(reports: Reports, out: Path) -> tuple[list[dict], Reading]:
    """The measurements that OHIF hydrates, and the reading of the SR that it saves of them."""
    if not (ADAPTERS / "node_modules").is_dir():
        pytest.skip(f"needs @cornerstonejs/adapters: npm install --prefix {ADAPTERS}")
    slices = {item.path for item in source_slices(reports.folder, reports.reading)}
    hydrated = run("node", ADAPTERS / "ohif.mjs", reports.sr, out / "saved.dcm", *sorted(slices)).splitlines()
    return json.loads(next(line for line in hydrated if line.startswith("["))), dicom_in.read(
        out / "saved.dcm", reports.folder
    )


def hydrates_and_saves(reports: Reports, out: Path) -> None:
    """Asserts that each lesion becomes a measurement of OHIF at the same place, and comes back from there as a
    reader's.

    The place is compared in pixels, and where these are square in the patient: cornerstone 5.14 exchanges their width
    and height there.
    """
    hydrated, saved = in_ohif(reports, out)
    axes = {one["trackingUid"]: one for one in hydrated if one["tool"] == "Bidirectional"}
    measured = [lesion for lesion in reports.reading.reported if lesion.recist is not None]
    assert len(axes) == len(measured)
    geometry = reports.reading.geometry
    source = Source.of(geometry, reports.reading.dicom, source_slices(reports.folder, reports.reading))
    for lesion in measured:
        one, recist_axes = axes[dicom_codes.tracking_uid(lesion.id)], lesion.recist
        assert one["data"]["label"].split(": ")[1].startswith(lesion.body_part.title)
        assert [site["CodeMeaning"] for site in one["findingSites"]] == [lesion.body_part.title]
        (sizes,) = one["data"]["cachedStats"].values()
        assert (sizes["length"], sizes["width"]) == (
            pytest.approx(recist_axes.long_mm),
            pytest.approx(recist_axes.short_mm),
        )
        ends, k = np.array([*recist_axes.long_axis, *recist_axes.short_axis]), lesion.key_slice
        assert np.array(one["pixels"]) == pytest.approx(source.in_image(k, ends), abs=0.001)
        if geometry.spacing[0] == geometry.spacing[1]:
            in_patient = geometry.to_lps(np.column_stack([ends, np.full(4, k)]))
            assert np.array(one["data"]["handles"]["points"]) == pytest.approx(in_patient, abs=0.01)

    assert len(saved.lesions) == len(measured)
    for lesion in measured:
        same = min(
            saved.lesions, key=lambda one: (one.key_slice != lesion.key_slice, np.abs(lines(one) - lines(lesion)).max())
        )
        assert (same.body_part, same.key_slice, same.origin) == (lesion.body_part, lesion.key_slice, Origin.READER)
        assert lines(same) == pytest.approx(lines(lesion), abs=0.01)


def lines(lesion: Lesion) -> np.ndarray:
    """Both axes, in the order of their ends: with exchanged pixels the short one may be the longer."""
    return np.array(sorted([lesion.recist.long_axis, lesion.recist.short_axis]))


def test_ohif_hydrates_and_saves_lesions_on_a_real_ct(real, tmp_path):
    hydrates_and_saves(real, tmp_path)


@pytest.mark.parametrize("phantom", ["oblique", "turned", "multi-frame"], indirect=True)
def test_ohif_hydrates_and_saves_lesions_on_strange_ct(phantom, tmp_path):
    hydrates_and_saves(phantom, tmp_path)


def test_everything_comes_back_from_a_real_ct(real):
    back = dicom_in.read(real.sr, real.folder)
    assert replace(back, lesions=()) == replace(real.reading, lesions=())
    assert len(back.lesions) == 20
    for lesion, expected in zip(back.lesions, real.reading.lesions):
        assert replace(lesion, box=expected.box, recist=expected.recist, confidence=expected.confidence) == expected
        assert lesion.box == pytest.approx(expected.box, abs=1e-3)
        assert lines(lesion) == pytest.approx(lines(expected), abs=1e-3)
