import csv

import numpy as np
import pytest
import SimpleITK
from LesionDetectorLib.lesion import BodyPart, Recist

from train.data.layout import COLUMNS, row, series_folder, write_csv, write_png


def published_row() -> dict[str, object]:
    """The first row of the published file, from its measurement in 0-based pixels."""
    long_axis, short_axis = ((232.537, 94.0204), (233.057, 105.977)), ((230.169, 100.605), (235.252, 100.143))
    recist = Recist(long_axis, short_axis, 11.9677 * 0.488281, 5.10387 * 0.488281)
    series = {
        "slices": (103, 115),
        "spacing": (0.488281, 0.488281, 5),
        "size": (512, 512),
        "location": (0.44666, 0.283794, 0.434454),
    }
    return row(1, 109, recist, BodyPart.MEDIASTINUM, gender="F", age=62, split=3, **series)


def test_a_row_is_written_as_published(tmp_path):
    write_csv(tmp_path / "DL_info.csv", [published_row()])
    with (tmp_path / "DL_info.csv").open() as file:
        written = next(csv.DictReader(file))
    assert tuple(written) == COLUMNS
    assert written["File_name"] == "000001_01_01_109.png"
    assert (
        written["Measurement_coordinates"] == "233.537, 95.0204, 234.057, 106.977, 231.169, 101.605, 236.252, 101.143"
    )
    numbers = [float(value) for value in written["Bounding_boxes"].split(",")]
    assert numbers == pytest.approx([226.169, 90.0204, 241.252, 111.977], abs=0.002)
    assert written["Lesion_diameters_Pixel_"] == "11.9677, 5.10387"
    assert (written["Slice_range"], written["Train_Val_Test"], written["Coarse_lesion_type"]) == ("103, 115", "3", "3")


def test_a_picture_keeps_its_hu(tmp_path):
    hu = np.array([[-1024, 0], [55, 3071]])
    path = tmp_path / series_folder(7) / "012.png"
    write_png(path, hu)
    assert path.parent.name == "000007_01_01"
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(int) - 32768, hu)
