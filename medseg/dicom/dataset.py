"""A pydicom data set from a stream, in bounded memory."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

_CHUNK = 1 << 20
_META_GROUP = 2


def load_dataset(
    stream: BinaryIO, transfer_syntax_uid: str, *, most_bytes: int, tags: list[int] | None = None
) -> Dataset:
    """Read a file with pydicom; call it inside `quiet_pydicom`.

    Args:
        stream: The file, at its beginning.
        transfer_syntax_uid: What its header says.
        most_bytes: No more is read, or inflated.
        tags: Only these, and nothing from the pixel data on; all of the file if None.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file inflates to more than `most_bytes`.
        Exception: What else pydicom raises; see `medseg.dicom.quiet.PYDICOM_ERRORS`.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return _inflated_dataset(stream, most_bytes)
    # bytes in memory: a damaged length then asks for no more than there is
    content = io.BytesIO(b"".join(_chunks(stream, most_bytes)))
    return pydicom.dcmread(content, force=True, specific_tags=tags, stop_before_pixels=tags is not None)


def _chunks(stream: BinaryIO, most_bytes: int) -> Iterator[bytes]:
    """Read a stream piece by piece: asking for all of it at once would allocate it at once."""
    left = most_bytes
    while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
        yield chunk
        left -= len(chunk)


def _inflated_dataset(stream: BinaryIO, most_bytes: int) -> Dataset:
    """Read a deflated data set (PS3.5 A.5), which pydicom would inflate to any size."""
    preamble = read_preamble(stream, force=True)
    meta = FileMetaDataset(
        read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_is_past_meta)
    )
    content = io.BytesIO(_inflate(stream, most_bytes))
    dataset = read_dataset(content, is_implicit_VR=False, is_little_endian=True)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset(content, dataset, preamble, meta, is_implicit_VR=False, is_little_endian=True)


def _is_past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >> 16 != _META_GROUP


def _inflate(stream: BinaryIO, most_bytes: int) -> bytes:
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
