"""The panel in 3D Slicer, with LesionDetector.py the only place that knows Qt."""
