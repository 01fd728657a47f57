"""The frames of a SEG: which slices hold which segment, and the pixels of each, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medseg.labels import Label, LabelSet

Pixels = NDArray[np.unsignedinteger[Any]]
ProbabilityReader = Callable[[str], NDArray[np.float16]]
"""Name of a label -> its probabilities (i, j, k) on the volume's grid."""

MAXIMUM_FRACTION = 255
"""MaximumFractionalValue: what a probability of 1 is stored as."""

_ENCODERS = {
    RLELossless: (get_encoder(RLELossless), "pydicom"),  # that of GDCM ends the process on some sizes
    JPEGLSLossless: (get_encoder(JPEGLSLossless), "pyjpegls"),
}

Key = tuple[int, int]
"""SegmentNumber, 0 for all of a label map, and number of the slice from 0."""


class Frames(Protocol):
    """What the frames of a SEG hold.

    Attributes:
        is_there: (n, segments) whether a slice holds something of a segment; (n,) in a label map.
        bits: Of a pixel.
    """

    @property
    def is_there(self) -> NDArray[np.bool_]:
        """(n, segments) or (n,)."""
        ...

    @property
    def bits(self) -> int:
        """1, 8 or 16."""
        ...

    def pixels(self, key: Key) -> Pixels:
        """Return the pixels (rows, columns) of a frame."""
        ...


@dataclass(frozen=True, eq=False)
class BinaryFrames:
    """Frames of single bits.

    Attributes:
        values: (columns, rows, n) label values on the slices.
        indices: Label value of each segment.
        is_there: See `Frames`.
    """

    values: NDArray[np.integer[Any]] = field(repr=False)
    indices: tuple[int, ...]
    is_there: NDArray[np.bool_] = field(repr=False)
    bits: int = 1

    def pixels(self, key: Key) -> Pixels:
        """Return the pixels (rows, columns) of a frame, 0 or 1."""
        segment, number = key
        pixels: Pixels = (self.values[:, :, number] == self.indices[segment - 1]).astype(np.uint8).T
        return pixels


@dataclass(frozen=True, eq=False)
class MapFrames:
    """Frames that hold the number of a segment in each pixel.

    Attributes:
        values: (columns, rows, n) label values on the slices.
        indices: Label value of each segment.
        is_there: See `Frames`.
    """

    values: NDArray[np.integer[Any]] = field(repr=False)
    indices: tuple[int, ...]
    is_there: NDArray[np.bool_] = field(repr=False)

    @property
    def bits(self) -> int:
        """8, or 16 for many segments."""
        return 8 if len(self.indices) <= np.iinfo(np.uint8).max else 16

    def pixels(self, key: Key) -> Pixels:
        """Return the pixels (rows, columns) of a frame: segment numbers, 0 for background."""
        numbers = np.searchsorted((0, *self.indices), self.values[:, :, key[1]])
        kind: type[np.unsignedinteger[Any]] = np.uint8 if self.bits == 8 else np.uint16
        return numbers.astype(kind).T


@dataclass(frozen=True, eq=False)
class FractionFrames:
    """Frames of probabilities; one label's are in memory at a time.

    Attributes:
        read: Gives them by name.
        names: Of the segments.
        slices: Index of each slice along the volume's last axis.
        is_there: See `Frames`.
    """

    read: ProbabilityReader = field(repr=False)
    names: tuple[str, ...]
    slices: NDArray[np.intp] = field(repr=False)
    is_there: NDArray[np.bool_] = field(repr=False)
    bits: int = 8
    _last: dict[int, NDArray[np.float16]] = field(default_factory=dict, repr=False)

    def pixels(self, key: Key) -> Pixels:
        """Return the pixels (rows, columns) of a frame: probabilities in steps of 1/255."""
        segment, number = key
        if segment not in self._last:
            self._last.clear()
            self._last[segment] = self.read(self.names[segment - 1])
        return fractions(self._last[segment][:, :, self.slices[number]]).T


def fractions(probabilities: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Return probabilities as they are stored: rounded to steps of 1/255."""
    scaled = np.clip(probabilities.astype(np.float32), 0, 1) * MAXIMUM_FRACTION
    return np.rint(scaled).astype(np.uint8)


def where_labels_are(values: NDArray[np.integer[Any]], labels: LabelSet) -> NDArray[np.bool_]:
    """Return (n, labels) whether a slice holds a label.

    Args:
        values: (columns, rows, n) label values.
        labels: What they mean.
    """
    found = np.zeros((values.shape[2], len(labels)), dtype=bool)
    for number in range(values.shape[2]):
        found[number] = np.isin(labels.indices, _values_in(values[:, :, number]))
    return found


def _values_in(plane: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the values of a plane; counting small ones is several times as fast as sorting."""
    if plane.dtype.itemsize > np.dtype(np.uint16).itemsize:
        return np.unique(plane)
    return np.flatnonzero(np.bincount(plane.ravel(order="K")))


def where_fractions_are(
    read: ProbabilityReader, labels: Sequence[Label], slices: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return (n, labels) whether a slice holds a probability of a label that is not stored as 0.

    Args:
        read: Gives the probabilities of a label.
        labels: The labels.
        slices: Index of each slice along the volume's last axis.
    """
    columns = []
    for label in labels:
        probabilities = read(label.name)
        columns.append([bool(fractions(probabilities[:, :, k].max(keepdims=True)).any()) for k in slices])
        del probabilities  # before the next one is read
    return np.array(columns, dtype=bool).T


def native_pixels(frames: Frames, keys: Iterable[Key]) -> bytes:
    """Return frames as they are stored without compression (PS3.5 8.1.1, 8.2): of an even length.

    Args:
        frames: What they hold; single bits run on from frame to frame without a gap.
        keys: Of the frames, in order.
    """
    stream, rest = BytesIO(), np.zeros(0, dtype=np.uint8)
    for key in keys:
        flat = frames.pixels(key).ravel()
        if frames.bits == 1:
            flat = np.concatenate([rest, flat])
            whole = flat.size // 8 * 8
            stream.write(np.packbits(flat[:whole], bitorder="little").tobytes())
            rest = flat[whole:].astype(np.uint8)
        else:
            stream.write(flat.astype(f"<u{frames.bits // 8}").tobytes())
    stream.write(np.packbits(rest, bitorder="little").tobytes())
    stream.write(bytes(stream.tell() % 2))
    return stream.getvalue()


def compressed_pixels(frames: Frames, keys: Iterable[Key], transfer_syntax_uid: UID) -> bytes:
    """Return frames one by one in fragments (PS3.5 A.4), lossless.

    Args:
        frames: What they hold; 8 or 16 bits a pixel.
        keys: Of the frames, in order.
        transfer_syntax_uid: How they are compressed.
    """
    encoder, plugin = _ENCODERS[transfer_syntax_uid]
    encoded = []
    for key in keys:
        pixels = np.ascontiguousarray(frames.pixels(key))
        facts = {
            "rows": pixels.shape[0],
            "columns": pixels.shape[1],
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "bits_allocated": frames.bits,
            "bits_stored": frames.bits,
            "pixel_representation": 0,
            "number_of_frames": 1,
        }
        encoded.append(encoder.encode(pixels, encoding_plugin=plugin, **facts))
    return bytes(encapsulate(encoded))


def stored_pixels(frames: Frames, keys: Sequence[Key], transfer_syntax_uid: UID) -> bytes:
    """Return PixelData of frames; see `native_pixels` and `compressed_pixels`."""
    if transfer_syntax_uid == ExplicitVRLittleEndian:
        return native_pixels(frames, keys)
    return compressed_pixels(frames, keys, transfer_syntax_uid)
