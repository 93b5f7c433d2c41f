"""A reading for people: `text` for the report, `table` for spreadsheets, `page` to look at, `figures` of every lesion."""

from pathlib import Path

from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.report import table, text


def write_reports(folder: Path, reading: Reading) -> None:
    """Write a reading as both texts, as table and for programs. Raises OSError."""
    text.write(folder / "report.txt", reading)
    text.write(folder / "report_with_diameters.txt", reading, diameters=True)
    lesions_json.write(folder / "lesions.json", reading)
    table.write(folder / "lesions.csv", reading)
