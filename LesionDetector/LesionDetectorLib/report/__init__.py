"""What comes out of a reading: `text` for the report, `table` for spreadsheets, `page` to look at, `exchange` for programs."""

from LesionDetectorLib.report.reading import DicomSeries, Geometry, Model, Reading, ordered, reported

__all__ = ["DicomSeries", "Geometry", "Model", "Reading", "ordered", "reported"]
