"""The page: what it says, that it needs nothing else and gives nothing away, and how a browser shows and prints it."""

from __future__ import annotations

import base64
import io
import re
import shutil
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.ct.geometry import DicomSeries
from LesionDetectorLib.followup.baseline import assess
from LesionDetectorLib.lesion import BodyPart, Lesion, Mark, Origin, Recist, ReviewStatus
from LesionDetectorLib.looks import colour
from LesionDetectorLib.reading import Model, Reading
from LesionDetectorLib.report import page, text
from PIL import Image

UIDS = {"study_uid": "1.2.3", "series_uid": "1.2.3.4", "frame_of_reference_uid": "1.2.3.9"}
SLICES, SIZE = 20, 256


def a_lesion(
    part: BodyPart = BodyPart.LIVER, confidence: float | None = 0.87, k: int = 7, x: float = 100, **changes
) -> Lesion:
    """A lesion of 24.3 x 16.1 mm on slice k."""
    recist = Recist(((x + 5, 110.0), (x + 35, 110.0)), ((x + 20, 100.0), (x + 20, 120.0)), 24.3, 16.1)
    values = {"recist": recist, "id": f"{part.name}-{k}-{x}", **changes}
    return Lesion(part, confidence, k, (k - 1, k + 2), (x, 95.0, x + 40, 125.0), **values)


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Noise like a CT's in a round body."""
    j, i = np.mgrid[:SIZE, :SIZE]
    hu = np.random.default_rng(0).normal(40, 25, (SLICES, SIZE, SIZE)).astype(np.int16)
    hu[:, np.hypot(i - 128, j - 128) > 120] = -1000
    dicom = DicomSeries(**UIDS, sop_instance_uids=tuple(f"1.2.3.4.{k}" for k in range(SLICES)))
    return Volume(
        hu,
        (0.8, 0.8, 2.5),
        (0.0, 0.0, 0.0),
        np.eye(3),
        Path("/home/DOE_JANE"),
        "7",
        "4",
        "1.2.3.4",
        1,
        2.5,
        dicom,
        ("Slices were uneven.",),
    )


@pytest.fixture(scope="module")
def reading(volume) -> Reading:
    lesions = [
        a_lesion(k=3, status=ReviewStatus.ACCEPTED),
        a_lesion(BodyPart.MEDIASTINUM, 0.61, 7, marks=(Mark.LYMPH_NODE,), status=ReviewStatus.ACCEPTED),
        a_lesion(BodyPart.SOFT_TISSUE, None, 9, origin=Origin.READER, recist=None),
        a_lesion(BodyPart.LUNG, 0.93, 12),
        a_lesion(BodyPart.BONE, 0.2, 12),
    ]
    return Reading.of(volume, lesions, [Model("vfnet", "ab" * 32)])


@pytest.fixture(scope="module")
def html(reading, volume) -> str:
    return page.compose(reading, volume, diameters=True, baseline=True)


class Outline(HTMLParser):
    """The elements of a page; fails where tags do not nest."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(" ".join(data.split()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def says(self) -> str:
        return " ".join(filter(None, self.words))


def test_the_page_says_all_of_a_reading(reading, html):
    says = Outline(html).says
    for fact in (
        "Study 7, series 4 · 4 lesions: 2 accepted, 2 pending",
        "Slices were uneven.",
        "1.2.3.4.7",  # the slice of lesion 2
        "Series Instance UID 1.2.3.4",
        "20, 2.50 mm apart, 2.50 mm thick",
        "256 x 256 of 0.800 x 0.800 mm",
        f"vfnet, SHA-256 {'ab' * 32}",
        f"LesionDetector {reading.software_version}",
        "Lesion 2: Mediastinum accepted",
        "24.3 x 16.1 mm",
        "Key slice 8, seen on 7 to 10",
        "Marked as lymph node",
        "Found by reader",
        *text.compose(reading, diameters=True).split("\n\n")[0].splitlines(),
        assess(reading).total,
        *assess(reading).notes,
        *(entry.reason for entry in assess(reading).entries),
    ):
        assert fact in says
    assert says.count(text.NOT_A_MEDICAL_DEVICE) == 3  # on top, in the structured text, at the end
    assert "Bone" not in says  # below the threshold


def test_every_lesion_has_two_pictures_with_its_box_that_a_reader_of_text_is_told_of(reading, html):
    images = Outline(html).of("img")
    assert len(images) == 2 * len(reading.reported)
    assert images[2]["alt"] == "Slice 8, whole, with a box round lesion 2"
    assert images[3]["alt"] == "Lesion 2 enlarged, with its long and short axis of 24.3 x 16.1 mm"
    assert images[5]["alt"] == "Lesion 3 enlarged"
    for attributes, lesion in zip(images, [lesion for lesion in reading.reported for _ in "12"]):
        picture = Image.open(io.BytesIO(base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,"))))
        assert picture.size == (int(attributes["width"]), int(attributes["height"]))
        coloured = np.abs(np.asarray(picture) / 255 - colour(lesion)).max(axis=-1) < 0.25
        assert coloured.sum() > 150


def test_the_page_needs_nothing_from_elsewhere(html):
    outline = Outline(html)
    policy = next(meta["content"] for meta in outline.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in outline.elements}
    addresses = [
        attributes[name] for _, attributes in outline.elements for name in ("src", "href") if name in attributes
    ]
    assert all(address.startswith(("data:image/jpeg;base64,", "#lesion-")) for address in addresses)
    assert not re.search(r"url\(|@import|https?:", html)
    ids = {attributes["id"] for _, attributes in outline.elements if "id" in attributes}
    assert {address[1:] for address in addresses if address.startswith("#")} <= ids


def test_nothing_tells_who_the_patient_is_unless_it_is_asked_for(reading, volume, html):
    assert "DOE_JANE" not in html and "Patient" not in Outline(html).says
    asked = Outline(page.compose(reading, volume, patient={"Patient": "Doe Jane", "Sex": "F"})).says
    assert "Patient Doe Jane Sex F" in asked


def test_text_from_outside_is_escaped(reading):
    evil = "<script>alert('1')</script>&\"'"
    spoilt = replace(
        reading, study=evil, series=evil, warnings=(evil,), models=(Model(evil, evil),), software_version=evil
    )
    content = page.compose(spoilt, patient={"Patient": evil, evil: ""}, baseline=True)
    outline = Outline(content)
    assert not outline.of("script") and "<script" not in content
    # title 2, heading 2, patient 2, warning 1, structured text 4, facts 3, footer 1
    assert outline.says.count(evil) == 15


def test_without_the_ct_the_page_has_no_pictures_and_says_so(reading):
    outline = Outline(page.compose(reading))
    assert not outline.of("img") and "made without the CT, so it has no pictures" in outline.says
    assert "SOP Instance UID 1.2.3.4.7" in outline.says and "RECIST" not in outline.says


def test_without_lesions_the_page_says_that_none_was_found(reading, volume):
    outline = Outline(page.compose(replace(reading, lesions=()), volume, baseline=True))
    assert text.NO_LESION.format(confidence=0.5) in outline.says and "0 lesions" in outline.says
    assert not outline.of("table") and not outline.of("article")


def test_a_ct_that_is_no_dicom_is_known_by_its_content_and_a_resampled_slice_has_no_instance(reading):
    says = Outline(page.compose(replace(reading, dicom=None, source="DOE_JANE.nrrd", slice_thickness=None))).says
    assert "DOE" not in says and "Identifier 1.2.3.4" in says and "UID" not in says and "2.50 mm apart Pixels" in says
    resampled = replace(reading.dicom, sop_instance_uids=(None,) * SLICES)
    assert (
        "SOP Instance UID none, for its voxels are not the pixels of a file"
        in Outline(page.compose(replace(reading, dicom=resampled))).says
    )


def test_forty_lesions_stay_below_ten_megabytes():
    # more than in any CT, so larger as JPEG
    noise = np.random.default_rng(0).normal(40, 40, (512, 512)).astype(np.int16)
    volume = Volume(
        np.broadcast_to(noise, (40, 512, 512)), (0.8, 0.8, 2.5), (0.0, 0.0, 0.0), np.eye(3), Path("ct.nrrd")
    )
    lesions = [Lesion(BodyPart(1 + k % 8), 0.9, k, (k, k), (200.0, 200.0, 240.0, 240.0)) for k in range(40)]
    assert len(page.compose(Reading.of(volume, lesions), volume)) < 10e6


# ------ in a browser

CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const hasText = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const texts = [...document.body.querySelectorAll('*')].filter(hasText);
  return Math.min(...texts.map(e => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); })); }"""


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium; on Debian and Ubuntu: apt install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, volume, reading) -> Path:
    """A page with more lesions than fit on a sheet, and identifiers as long as DICOM allows."""
    long_uid = "1.2." + "9" * 60
    dicom = replace(reading.dicom, study_uid=long_uid, sop_instance_uids=(long_uid,) * SLICES)
    more = [
        a_lesion(
            list(BodyPart)[k % 8], 0.9, k, 60, marks=(Mark.SOFT_TISSUE_PART, Mark.TARGET), status=ReviewStatus.ACCEPTED
        )
        for k in range(8, 15)
    ]
    made = replace(reading, dicom=dicom, lesions=(*reading.lesions, *more))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(
        page.compose(made, volume, diameters=True, baseline=True, patient={"Patient": "Doe " + "e" * 60}),
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("size", [(390, 844), (320, 568), (1280, 900)], ids=["phone", "small phone", "desktop"])
def test_the_page_fits_the_screen_and_asks_the_network_for_nothing(browser, page_file, size):
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    asked, complaints = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.goto(page_file.as_uri())
    widths = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    broken = tab.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length")
    beside = tab.evaluate(
        "[...document.querySelectorAll('.pictured')].map(e => new Set([...e.querySelectorAll('img')].map(i => "
        "i.y)).size)"
    )
    contrast = tab.evaluate(CONTRAST)
    tab.close()
    assert widths == [size[0], size[0]] and broken == 0
    assert set(beside) == {2 if size[0] < 560 else 1}  # pictures one above the other, or side by side
    assert {url.split(":")[0] for url in asked} <= {"file", "data"} and complaints == []
    assert contrast >= 4.5  # WCAG 2.2, AA


def test_the_page_prints_on_a4_without_a_break_through_a_lesion(browser, page_file):
    pypdf = pytest.importorskip("pypdf", reason="needs pypdf: pip install pypdf")
    tab = browser.new_page()
    tab.goto(page_file.as_uri())
    sheets = pypdf.PdfReader(io.BytesIO(tab.pdf(prefer_css_page_size=True))).pages
    tab.close()
    lesions = Outline(page_file.read_text(encoding="utf-8")).of("article")
    titles = []
    for number, sheet in enumerate(sheets, start=1):
        assert [round(float(side) / 72 * 25.4) for side in sheet.mediabox[2:]] == [210, 297]
        # a font may have fi as one sign
        content = unicodedata.normalize("NFKC", " ".join(sheet.extract_text().split()))
        assert text.NOT_A_MEDICAL_DEVICE in content and f"{number} / {len(sheets)}" in content
        here = re.findall(r"Lesion (\d+): [A-Z][a-z ]+ (?:accepted|pending)", content)
        assert len(sheet.images) == 2 * len(here) == 2 * content.count("Found by")
        titles.append(here)
    assert [title for here in titles for title in here] == [str(number) for number in range(1, len(lesions) + 1)]
    assert max(map(len, titles)) == 3
