"""A reading for programs, out and in: lesions.json, and DICOM SR and SEG."""
