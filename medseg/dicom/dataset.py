"""A pydicom data set from a stream, in bounded memory."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

MAX_FILE_BYTES = 1 << 32
"""No file is read into memory that is larger, or grows larger when it is inflated."""

_CHUNK = 1 << 20
_META_GROUP = 2


def load_dataset(stream: BinaryIO, transfer_syntax_uid: str, *, tags: list[int] | None = None) -> Dataset:
    """Read a file with pydicom; call it inside `quiet_pydicom`.

    Args:
        stream: The file, at its beginning.
        transfer_syntax_uid: What its header says.
        tags: Only these, and nothing from the pixel data on; all of the file if None.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file inflates to more than `MAX_FILE_BYTES`.
        Exception: What else pydicom raises; see `medseg.dicom.quiet.PYDICOM_ERRORS`.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return _inflated_dataset(stream)
    # bytes in memory: a damaged length then asks for no more than there is
    content = io.BytesIO(stream.read(MAX_FILE_BYTES))
    return pydicom.dcmread(content, force=True, specific_tags=tags, stop_before_pixels=tags is not None)


def _inflated_dataset(stream: BinaryIO) -> Dataset:
    """Read a deflated data set (PS3.5 A.5), which pydicom would inflate to any size."""
    preamble = read_preamble(stream, force=True)
    meta = FileMetaDataset(
        read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_is_past_meta)
    )
    content = io.BytesIO(inflate(stream, MAX_FILE_BYTES))
    dataset = read_dataset(content, is_implicit_VR=False, is_little_endian=True)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset(content, dataset, preamble, meta, is_implicit_VR=False, is_little_endian=True)


def _is_past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >> 16 != _META_GROUP


def inflate(stream: BinaryIO, most_bytes: int) -> bytes:
    """Inflate the rest of a stream.

    Raises:
        ValueError: It grows beyond `most_bytes`.
        zlib.error: It is damaged.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    while chunk := stream.read(_CHUNK):
        while chunk:
            out += inflater.decompress(chunk, _CHUNK)
            chunk = inflater.unconsumed_tail
            if len(out) > most_bytes:
                raise ValueError("a deflated file that grows too large")
    return bytes(out + inflater.flush())
