"""The Slicer scene: written, read back in a fresh process, edited, rendered.

In axial, oblique and left-handed geometry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from LesionDetectorLib import looks
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import Axis, Lesion, ReviewStatus
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.regrid import regrid
from LesionDetectorLib.scene import SceneError, mrml
from LesionDetectorLib.scene import files as archives
from LesionDetectorLib.scene.shown import geometry_of

from Testing.helpers.scenes import GEOMETRIES, SHAPE, SPACING, some_lesions, volume_with

slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")
pytest.importorskip("trame_slicer.views", reason="needs trame-slicer: pip install 'lesion-detector[scene]'")


READ_SCENES = """
import json, sys
from dataclasses import asdict
import slicer
from LesionDetectorLib import scene as s
from LesionDetectorLib.scene import mrml
result = {}
for path in sys.argv[1:]:
    scene = s.load_scene(path)
    boxes = mrml.all_nodes(scene, "vtkMRMLMarkupsROINode")
    table = scene.GetFirstNodeByClass("vtkMRMLTableNode")
    volume = scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    array = slicer.util.arrayFromVolume(volume)
    labels = scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    parent = lambda box: hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(box)))
    result[path] = {
        "lesions": [asdict(lesion) for lesion in s.read_lesions(scene)],
        "names": [box.GetName() for box in boxes],
        "locked": [bool(node.GetLocked()) for node in mrml.all_nodes(scene, "vtkMRMLMarkupsNode")],
        "colours": [box.GetDisplayNode().GetSelectedColor() for box in boxes],
        "native labels": [bool(box.GetDisplayNode().GetPropertiesLabelVisibility()) for box in boxes],
        "labels": [labels.GetNthControlPointLabel(i) for i in range(labels.GetNumberOfControlPoints())],
        "table": [[table.GetCellText(row, column) for column in range(8)] for row in range(table.GetNumberOfRows())],
        "columns": [table.GetColumnName(column) for column in range(table.GetNumberOfColumns())],
        "ijk to ras": mrml.ijk_to_ras(volume).tolist(),
        "shape": array.shape,
        "voxels": [int(array[2, 3, 4]), int(array.sum())],
        "parents": sorted({parent(box) for box in boxes}),
    }
print("RESULT" + json.dumps(result))
"""


@pytest.fixture(scope="module")
def lesions() -> list[Lesion]:
    return some_lesions()


@pytest.fixture(scope="module")
def reported() -> list[Lesion]:
    soft, lung, bone = some_lesions()
    return [bone, soft, lung.edited(status=ReviewStatus.PENDING)]


@pytest.fixture(scope="module")
def scene_files(tmp_path_factory, reported) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("Szenen é")
    files = {name: folder / f"{name}.mrb" for name in GEOMETRIES}
    for name, direction in GEOMETRIES.items():
        volume = volume_with(direction)
        rejected = reported[0].edited(status=ReviewStatus.REJECTED, id="rejected")
        lesion_scene.write_scene(volume, Reading.of(volume, [rejected, *reported]), files[name])
    assert sorted(folder.iterdir()) == sorted(files.values())
    return files


@pytest.fixture(scope="module")
def read_back(scene_files) -> dict[str, dict]:
    """What a fresh process finds in the scene files."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", READ_SCENES, *map(str, scene_files.values())]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    result = json.loads(output[output.index("RESULT") + len("RESULT") :])
    return {name: result[str(path)] for name, path in scene_files.items()}


@pytest.fixture
def shown(lesions):
    """A scene with lesions on an oblique CT: (scene, volume node, volume)."""
    volume = volume_with(GEOMETRIES["oblique"])
    scene = lesion_scene.new_scene()
    volume_node = lesion_scene.add_volume(scene, volume)
    lesion_scene.show_lesions(scene, volume_node, lesions, volume.slice_number)
    return scene, volume_node, volume


def assert_same(found: dict, lesion: Lesion) -> None:
    expected = asdict(lesion)
    exact = ("body_part", "confidence", "key_slice", "status", "origin", "id")
    assert {name: found[name] for name in exact} == {name: expected[name] for name in exact}
    assert (tuple(found["slices"]), tuple(found["marks"])) == (lesion.slices, lesion.marks)
    assert found["box"] == pytest.approx(lesion.box, abs=1e-3)
    assert (found["recist"] is None) == (lesion.recist is None)
    for name in ("long_axis", "short_axis", "long_mm", "short_mm") if lesion.recist else ():
        np.testing.assert_allclose(found["recist"][name], expected["recist"][name], atol=1e-3)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_lesion_comes_back_in_a_fresh_process(read_back, reported, geometry):
    found = read_back[geometry]
    assert found["names"] == [lesion.caption(number) for number, lesion in enumerate(reported, 1)]
    for record, lesion in zip(found["lesions"], reported, strict=True):
        assert_same(record, lesion)
    np.testing.assert_allclose(found["colours"], [looks.colour(lesion) for lesion in reported], atol=1e-4)
    assert all(found["locked"])
    assert not any(found["native labels"])
    assert found["labels"] == found["names"]
    assert found["parents"] == ["Lesions of CT 1 2"]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_table_comes_back_in_a_fresh_process(read_back, reported, geometry):
    found = read_back[geometry]
    assert tuple(found["columns"]) == lesion_scene.COLUMNS
    for number, (row, lesion) in enumerate(zip(found["table"], reported, strict=True), 1):
        assert [row[0], row[1], row[5:]] == [
            str(number),
            lesion.body_part.title,
            [str(lesion.key_slice + 1), lesion.status.value, lesion.id],
        ]
        numbers = (lesion.confidence, lesion.recist and lesion.recist.long_mm, lesion.recist and lesion.recist.short_mm)
        expected = [np.nan if number is None else number for number in numbers]
        assert list(map(float, row[2:5])) == pytest.approx(expected, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_ct_comes_back_in_a_fresh_process(read_back, geometry):
    volume, found = volume_with(GEOMETRIES[geometry]), read_back[geometry]
    assert tuple(found["shape"]) == SHAPE
    assert found["voxels"] == [int(volume.hu[2, 3, 4]), int(volume.hu.sum(dtype=int))]
    np.testing.assert_allclose(np.diag((-1, -1, 1, 1)) @ found["ijk to ras"], volume.geometry.index_to_lps, atol=1e-6)


def test_a_box_is_one_slice_thick_along_the_volumes_axes(shown, lesions):
    scene, _, volume = shown
    box = scene.GetFirstNodeByClass("vtkMRMLMarkupsROINode")
    planes = slicer.util.arrayFromVTKMatrix(box.GetObjectToWorldMatrix())
    half = np.array(box.GetSize()) / 2
    signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), axis=-1).reshape(-1, 3)
    corners = np.c_[signs * half, np.ones(8)] @ planes.T
    indices = volume.geometry.to_index(corners[:, :3] * (-1, -1, 1))
    x0, y0, x1, y1 = lesions[0].box
    np.testing.assert_allclose(indices.min(axis=0), (x0, y0, 5.5), atol=1e-6)
    np.testing.assert_allclose(indices.max(axis=0), (x1, y1, 6.5), atol=1e-6)


def test_a_caption_lies_beside_its_box_on_its_slice(shown, lesions):
    scene, _, volume = shown
    labels = scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")
    for index, lesion in enumerate(lesions):
        i, j, k = volume.geometry.to_index(np.array(labels.GetNthControlPointPosition(index)) * (-1, -1, 1))
        x0, y0, x1, y1 = lesion.box
        assert k == pytest.approx(lesion.key_slice)
        assert not (x0 < i < x1 and y0 < j < y1)


def test_a_box_and_an_axis_that_were_moved_are_read_where_they_are(shown, lesions):
    scene, _, volume = shown
    box = scene.GetFirstNodeByClass("vtkMRMLMarkupsROINode")
    line = box.GetNodeReference(mrml.LONG_AXIS)
    box.SetCenter(volume.geometry.to_lps((72.0, 43.0, 7.0)) * (-1, -1, 1))
    line.SetNthControlPointPosition(0, volume.geometry.to_lps((70.0, 30.0, 6.0)) * (-1, -1, 1))
    moved = lesion_scene.read_lesion(box)
    assert moved.box == pytest.approx((61.0, 30.5, 83.0, 55.5))
    assert moved.key_slice == 7
    assert moved.recist.long_axis[0] == pytest.approx((70.0, 30.0))
    assert moved.recist.long_mm == pytest.approx(17.5 * SPACING[1])
    assert moved.id == lesions[0].id


def test_lesions_shown_again_replace_each_other(shown, lesions):
    scene, volume_node, volume = shown
    before = scene.GetNumberOfNodes()
    lesion_scene.show_lesions(scene, volume_node, lesions, volume.slice_number)
    assert scene.GetNumberOfNodes() == before
    assert len(lesion_scene.read_lesions(scene, volume_node)) == len(lesions)
    lesion_scene.remove_lesions(scene, volume_node)
    assert lesion_scene.read_lesions(scene) == []
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsNode") == scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 0


def test_a_lesion_without_its_ct_is_refused(shown):
    scene, volume_node, _ = shown
    scene.RemoveNode(volume_node)
    with pytest.raises(SceneError, match="is not in the scene any more"):
        lesion_scene.read_lesions(scene)


def test_lesions_fit_a_volume_node_with_its_voxels_in_another_order(lesions):
    lesions = [
        replace(lesion, recist=lesion.recist and replace(lesion.recist, drawn=(Axis.LONG,))) for lesion in lesions
    ]
    volume = volume_with(GEOMETRIES["oblique"])
    flips = np.diag((-1.0, 1.0, -1.0))
    origin = tuple(volume.geometry.to_lps((SHAPE[2] - 1, 0, SHAPE[0] - 1)))
    other = Volume(volume.hu[::-1, :, ::-1], SPACING, origin, volume.direction @ flips, Path("ct.nii"))
    volume_node = lesion_scene.add_volume(lesion_scene.new_scene(), other)
    reading = lesion_scene.reading_on(volume_node, Reading.of(volume, lesions))
    for lesion in reading.lesions:
        (original,) = (one for one in lesions if one.id == lesion.id)
        points = [(*lesion.box[:2], lesion.key_slice), (*lesion.box[2:], lesion.key_slice)]
        np.testing.assert_allclose(other.geometry.to_lps(points), reading.geometry.to_lps(points))
        indices = volume.geometry.to_index(other.geometry.to_lps(points))
        assert sorted(indices[:, 0]) == pytest.approx((original.box[0], original.box[2]))
        assert sorted(indices[:, 1]) == pytest.approx((original.box[1], original.box[3]))
        assert indices[:, 2] == pytest.approx(original.key_slice)
        assert lesion.slices[0] <= lesion.key_slice <= lesion.slices[1]
        assert (lesion.recist and lesion.recist.drawn) == (original.recist and original.recist.drawn)
    back = regrid(reading, Reading.of(volume, []).geometry)
    boxes = {lesion.id: lesion.box for lesion in back.lesions}
    assert all(boxes[lesion.id] == pytest.approx(lesion.box) for lesion in lesions)


@pytest.mark.parametrize("origin", [(-90.0, -80.0, 43.0), (0.0, 0.0, 0.0)])
def test_lesions_of_another_ct_are_refused(lesions, origin):
    volume = volume_with(np.eye(3))
    other = Volume(volume.hu, SPACING, origin, np.eye(3), Path("other.nrrd"))
    volume_node = lesion_scene.add_volume(lesion_scene.new_scene(), other)
    with pytest.raises(SceneError, match="were found on another CT"):
        lesion_scene.reading_on(volume_node, Reading.of(volume, lesions))


def test_what_is_no_scene_is_refused(tmp_path):
    text = tmp_path / "text.mrb"
    text.write_text("no archive")
    with pytest.raises(SceneError, match=r"text\.mrb: this is not a scene"):
        lesion_scene.load_scene(text)
    empty = tmp_path / "empty.mrb"
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("readme.txt", "no scene")
    with pytest.raises(SceneError, match=r"empty\.mrb: this archive holds no scene"):
        lesion_scene.load_scene(empty)


def _archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def test_a_scene_that_would_fill_the_disk_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 2**20)
    monkeypatch.setattr(archives, "MOST_FILES", 20)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("it is unpacked"))
    large = _archive(tmp_path / "large.mrb", {f"{number}": bytes(2**18) for number in range(5)})
    assert large.stat().st_size < 2**13
    with pytest.raises(
        SceneError, match=r"large.mrb unpacks to 5 files of 1 MB, and at most 20 of 1 MB are read: open it in 3D Slicer"
    ):
        lesion_scene.load_scene(large)
    with pytest.raises(SceneError, match="unpacks to 21 files of 0 MB"):
        lesion_scene.load_scene(_archive(tmp_path / "many.mrb", {f"{number}": b"" for number in range(21)}))


def test_no_entry_of_a_scene_writes_more_than_it_says(tmp_path):
    content = bytearray(_archive(tmp_path / "lies.mrb", {"a.mrml": bytes(2**20)}).read_bytes())
    for at in (content.find(b"PK\x03\x04") + 22, content.find(b"PK\x01\x02") + 24):
        content[at : at + 4] = (9).to_bytes(4, "little")
    (tmp_path / "lies.mrb").write_bytes(content)
    with pytest.raises(SceneError, match=r"lies.mrb: this is not a scene file; open a .mrb file"):
        lesion_scene.load_scene(tmp_path / "lies.mrb")


def test_an_encrypted_scene_is_refused(tmp_path):
    content = bytearray(_archive(tmp_path / "locked.mrb", {"a.mrml": b"<MRML/>"}).read_bytes())
    for at in (content.find(b"PK\x03\x04") + 6, content.find(b"PK\x01\x02") + 8):
        content[at] |= 1
    (tmp_path / "locked.mrb").write_bytes(content)
    with pytest.raises(SceneError, match=r"locked\.mrb is encrypted"):
        lesion_scene.load_scene(tmp_path / "locked.mrb")


def test_a_scene_that_cannot_be_written_leaves_the_old_one(tmp_path):
    class FullDisk:
        def SaveSceneToSlicerDataBundleDirectory(self, folder):  # noqa: N802
            (Path(folder) / "half.nrrd").write_text("half")
            return False

    path = tmp_path / "scene.mrb"
    path.write_text("old")
    with pytest.raises(SceneError, match="could not be written"):
        lesion_scene.save_scene(FullDisk(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "slicer", None)
    with pytest.raises(SceneError, match=r"slicer-core.*pip install 'lesion-detector\[scene\]'"):
        lesion_scene.new_scene()


def test_missing_opengl_is_named(monkeypatch, tmp_path):
    class NoDriver:
        def SetOffScreenRendering(self, on):  # noqa: N802
            pass

        def SupportsOpenGL(self):  # noqa: N802
            return 0

    monkeypatch.setattr("vtkmodules.vtkRenderingCore.vtkRenderWindow", NoDriver)
    with pytest.raises(SceneError, match=r"needs OpenGL.*apt-get install libegl1"):
        lesion_scene.render_scene(tmp_path / "scene.mrb", tmp_path / "scene.png")


@pytest.mark.parametrize("geometry", ["oblique", "left-handed"])
def test_the_axial_view_shows_the_lesion_on_the_patients_left(scene_files, tmp_path, geometry):
    picture = tmp_path / "scene.png"
    size = 600
    try:
        lesion_scene.render_scene(scene_files[geometry], picture, size)
    except SceneError as error:
        pytest.skip(str(error))
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert pixels.shape == (size, size, 3)
    scale = size / (SHAPE[2] * SPACING[0])
    centre = size / 2 + scale * np.array([(70.0 - 49.5) * SPACING[0], (40.0 - 44.5) * SPACING[1]])
    half = scale * np.array([11.0 * SPACING[0], 12.5 * SPACING[1]])
    amber = np.abs(pixels - looks.COLOURS["pending"]).max(axis=-1) < 0.15
    for row, column in ((0, -1), (0, 1), (-1, 0), (1, 0)):
        x, y = np.rint(centre + half * (column, row)).astype(int)
        assert amber[y - 3 : y + 4, x - 3 : x + 4].any(), "an edge of the box is not where the lesion is"
    x0, y0, x1, y1 = np.rint([*(centre - 0.9 * half), *(centre + 0.9 * half)]).astype(int)
    assert amber[y0:y1, x0:x1].mean() < 0.05, "the lesion is covered"
    spine = np.rint(size / 2 + scale * np.array([(50 - 49.5) * SPACING[0], (75 - 44.5) * SPACING[1]])).astype(int)
    assert pixels[spine[1], spine[0]].min() > 0.95, "the spine is not at the back"


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_ct_written_for_the_detector_is_the_same_ct(tmp_path, monkeypatch, geometry, kind):
    node = lesion_scene.add_volume(lesion_scene.new_scene(), volume_with(GEOMETRIES[geometry]))
    limits = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.finfo(kind)
    voxels = np.arange(24).reshape(2, 3, 4).astype(kind)
    voxels[0, 0, :2] = limits.min, limits.max
    monkeypatch.setattr(slicer.util, "arrayFromVolume", lambda node: voxels)
    folder = tmp_path / "Jürgen Müller 日本"
    folder.mkdir()
    lesion_scene.write_volume(node, folder / "ct.nrrd")
    monkeypatch.chdir(folder)
    image = SimpleITK.ReadImage("ct.nrrd")
    read = SimpleITK.GetArrayFromImage(image)
    assert read.dtype == voxels.dtype and np.array_equal(read, voxels)
    wanted = geometry_of(node)
    assert np.allclose(image.GetOrigin(), wanted.origin, rtol=0, atol=1e-12)
    assert np.allclose(image.GetSpacing(), wanted.spacing, rtol=0, atol=1e-12)
    assert np.allclose(np.reshape(image.GetDirection(), (3, 3)), wanted.direction, rtol=0, atol=1e-12)


def test_a_volume_of_colours_is_not_written_for_the_detector(tmp_path):
    node = lesion_scene.new_scene().AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    slicer.util.updateVolumeFromArray(node, np.zeros((2, 3, 4, 3), np.uint8))
    with pytest.raises(SceneError, match=r"'Photo' holds 3 values a voxel .* choose a CT"):
        lesion_scene.write_volume(node, tmp_path / "ct.nrrd")


def test_a_ct_is_written_without_itk(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    node = lesion_scene.add_volume(lesion_scene.new_scene(), volume_with(GEOMETRIES["oblique"]))
    lesion_scene.write_volume(node, tmp_path / "ct.nrrd")
    assert (tmp_path / "ct.nrrd").read_bytes().startswith(b"NRRD0004\n")
