"""Data sets in DeepLesion's layout: read, checked, balanced, prepared and cropped."""
