"""Names of structures that models use, beside those of DICOM: tables for `medseg.dicom.terminology`."""

from __future__ import annotations

SYNONYMS = {
    "urinary bladder": "bladder",
    "thyroid gland": "thyroid",
    "pituitary gland": "pituitary",
    "adrenal": "adrenal gland",
    "suprarenal gland": "adrenal gland",
    "oesophagus": "esophagus",
    "small bowel": "small intestine",
    "large bowel": "large intestine",
    "gall bladder": "gallbladder",
    "brainstem": "brain stem",
    "csf": "cerebrospinal fluid",
    "spinal column": "spine",
    "vertebral column": "spine",
    "vertebrae": "vertebra",
    "ribs": "rib",
    "lungs": "lung",
    "kidneys": "kidney",
    "eyes": "eye",
    "lung upper lobe": "upper lobe of lung",
    "lung lower lobe": "lower lobe of lung",
    "right lung middle lobe": "middle lobe of right lung",
    "left atrial appendage": "left auricular appendage",
    "right atrial appendage": "right auricular appendage",
    "left heart atrium": "left atrium",
    "right heart atrium": "right atrium",
    "left heart ventricle": "left ventricle",
    "right heart ventricle": "right ventricle",
    "brachiocephalic trunk": "innominate artery",
    "brachiocephalic vein": "innominate vein",
    "iliac vena": "iliac vein",
    "clavicula": "clavicle",
    "autochthon": "erector spinae muscle",
    "erector spinae": "erector spinae muscle",
    "costal cartilages": "costal cartilage",
}
"""Normalised name -> normalised meaning in PS3.16; both without capitals and separators."""

AMBIGUOUS = frozenset(
    {"atria", "atrium", "background", "head", "hiatus", "media", "neck", "normal", "ventricle", "ventricles"}
)
"""Names that the dictionary has for one thing, and models use for others too: alone they have no code."""

LESIONS = {
    "tumor": "neoplasm",
    "tumour": "neoplasm",
    "neoplasm": "neoplasm",
    "lesion": "lesion",
    "mass": "mass",
    "cyst": "cyst",
    "nodule": "nodule",
    "metastasis": "neoplasm secondary",
}
"""Last word of the name of a lesion -> normalised meaning in CID 7159; the words before it name an organ."""

ALSO_AMOUNTS = frozenset({"mass"})
"""Words of `LESIONS` that mean a lesion only after the name of an organ: muscle mass is how much there is of it."""

RIBS = {
    1: ("First", "48535007"),
    2: ("Second", "78247007"),
    3: ("Third", "25888004"),
    4: ("Fourth", "25523003"),
    5: ("Fifth", "15339008"),
    6: ("Sixth", "59558009"),
    7: ("Seventh", "24915002"),
    8: ("Eighth", "5953002"),
    9: ("Ninth", "22565002"),
    10: ("Tenth", "77644006"),
    11: ("Eleventh", "58830002"),
    12: ("Twelfth", "43993008"),
}
"""Number of a rib -> its ordinal, and SNOMED CT's concept of it, which the context groups of DICOM lack."""
