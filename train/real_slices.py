"""Bring the scattered real slices of DeepLesion that ship with papers and tools into DeepLesion's own layout, for
training and measuring.

Reads `boxes.csv` beside `Images_png` (16-bit) and `key_slices_8bit/boxes.csv` (8-bit, linear -1024..3071 HU); patients
of the official test split stay test, all others train. Boxes of unknown type keep the type -1: a trainer ignores them,
an evaluator too.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd
import SimpleITK
from LesionDetectorLib.boxes import pairwise_iou
from LesionDetectorLib.ct.deeplesion import USUAL_SPACING
from LesionDetectorLib.lesion import BodyPart
from tqdm import tqdm

from train.data.deeplesion import UNKNOWN
from train.data.layout import COLUMNS, MARGIN_PX, write_csv, write_png

DUPLICATE_IOU = 0.4


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train.real_slices",
        description=__doc__,
        epilog="example: python -m train.real_slices ../shared/data/deeplesion --out runs/real",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with boxes.csv, Images_png and key_slices_8bit")
    parser.add_argument("--out", type=Path, required=True, help="new folder for Images_png and DL_info.csv")
    options = parser.parse_args(arguments)
    for needed in (options.folder / "boxes.csv", options.folder / "Images_png"):
        if not needed.exists():
            parser.error(f"{needed} is missing; give the folder that holds boxes.csv and Images_png")
    convert(options.folder, options.out)


def convert(folder: Path, out: Path) -> None:
    """Write `out`/DL_info.csv and `out`/Images_png from the real slices in `folder`."""
    rows = _sixteen_bit(folder, out)
    if (folder / "key_slices_8bit").is_dir():
        rows += _eight_bit(folder / "key_slices_8bit", out)
    write_csv(out / "DL_info.csv", rows)


def _sixteen_bit(folder: Path, out: Path) -> list[dict[str, object]]:
    shutil.copytree(folder / "Images_png", out / "Images_png", dirs_exist_ok=True)
    return _rows(pd.read_csv(folder / "boxes.csv"))


def _eight_bit(folder: Path, out: Path) -> list[dict[str, object]]:
    table = pd.read_csv(folder / "boxes.csv")
    for name in tqdm(table["File_name"].unique(), desc="8-bit slices", unit="slice"):
        grey = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / name.replace(".png", ".jpg"))))
        grey = grey.mean(axis=-1) if grey.ndim == 3 else grey
        series, number = name.removesuffix(".png").rsplit("_", 1)
        write_png(out / "Images_png" / series / f"{number}.png", grey / 255.0 * 4095 - 1024)
    return _rows(table)


def _rows(table: pd.DataFrame) -> list[dict[str, object]]:
    rows = []
    for _, slice_rows in table.groupby("File_name"):
        known = slice_rows[slice_rows["class"] != "unknown"]
        unknown = slice_rows[slice_rows["class"] == "unknown"]
        boxes = known[["x1", "y1", "x2", "y2"]].to_numpy(float)
        overlaps = pairwise_iou(unknown[["x1", "y1", "x2", "y2"]].to_numpy(float), boxes)
        unknown = unknown[overlaps.max(axis=1, initial=0) < DUPLICATE_IOU]
        rows += [_row(row) for _, row in pd.concat([known, unknown]).iterrows()]
    return rows


def _row(row: pd.Series) -> dict[str, object]:
    patient, study, series, number = (int(part) for part in row["File_name"].removesuffix(".png").split("_"))
    box = row[["x1", "y1", "x2", "y2"]].to_numpy(float)
    sides = box[2:] - box[:2] - 2 * MARGIN_PX
    spacing = row["spacing"] if isinstance(row["spacing"], str) else _join(USUAL_SPACING)
    diameters = row["diameters_px"] if isinstance(row["diameters_px"], str) else _join((sides.max(), sides.min()))
    known = row["class"] != "unknown"
    values: dict[str, object] = dict.fromkeys(COLUMNS, "")
    values.update(
        File_name=row["File_name"],
        Patient_index=patient,
        Study_index=study,
        Series_ID=series,
        Key_slice_index=number,
        Measurement_coordinates=row["recist_coords"] if isinstance(row["recist_coords"], str) else "",
        Bounding_boxes=_join(box),
        Lesion_diameters_Pixel_=diameters,
        Coarse_lesion_type=int(BodyPart.from_title(row["class"])) if known else UNKNOWN,
        Possibly_noisy=0,
        Spacing_mm_px_=spacing,
        Train_Val_Test=3 if row["split"] == "test" else 1,
    )
    return values


def _join(values) -> str:
    return ", ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    main()
