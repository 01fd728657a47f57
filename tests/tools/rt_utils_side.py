"""Run by the Python that has rt-utils: rt_utils_side.py SERIES RTSTRUCT MASKS.npz.

Writes each structure as a mask [row, column, slice] by its name, `names`, and the SOPInstanceUIDs of the slices,
`uids`.
"""

import sys

import numpy as np
from rt_utils import RTStructBuilder

series, path, out = sys.argv[1:]
structures = RTStructBuilder.create_from(dicom_series_path=series, rt_struct_path=path)
names = structures.get_roi_names()
masks = {name: structures.get_roi_mask_by_name(name) for name in names}
np.savez(out, names=names, uids=[str(one.SOPInstanceUID) for one in structures.series_data], **masks)
