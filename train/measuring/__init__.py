"""How good detections are: matching, FROC, average precision, intervals, tables and pictures."""
