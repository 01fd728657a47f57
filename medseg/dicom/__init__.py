"""DICOM in and out; the only folder that imports pydicom.

In: `scan` (a folder -> series, headers only) -> `read` (a series -> Volume). Out: `write` (a Volume -> a series).
The patient frame of DICOM is LPS+; it is turned to medseg's RAS+ here and nowhere else, by composing affines.
"""
