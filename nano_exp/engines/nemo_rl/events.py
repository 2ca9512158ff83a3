"""Read the scalars of TensorBoard's event files while they are being written, with the standard library alone.

A file is records: length (8 bytes), its checksum (4), payload, its checksum (4); all little-endian. A payload is an
`Event` message of tensorflow/core/util/event.proto, whose numbers are written below. Both formats have been fixed since
2016. NeMo RL writes `simple_value`, a float32; TensorBoard's newer writers a `tensor` of one float.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types of Protocol Buffers


@dataclass(frozen=True)
class Scalar:
    """One number as it was logged; `value` is the float32's own, `time` is in unix seconds."""

    tag: str
    step: int
    value: float
    time: float


class Folder:
    """The event files that lie directly in a folder, each read once, from where the last look ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: dict[Path, int] = {}

    @property
    def written(self) -> bool:
        """Whether the last look found a file."""
        return bool(self._read)

    def look(self) -> Iterator[Scalar]:
        """What was logged since the last look. A record that is not whole yet, or a file that cannot be read for now (a
        shared file system has such moments), is left for the next one."""
        for path in sorted(self.path.glob("events.out.tfevents.*")):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(self._read.setdefault(path, 0))
                for record in _records(file):
                    self._read[path] += len(record) + 16
                    yield from scalars(record)


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The payloads from here on, up to the first that is cut off or damaged."""
    while len(head := file.read(12)) == 12 and _is_whole(head):
        (length,) = struct.unpack("<Q", head[:8])
        body = file.read(length + 4)
        if len(body) < length + 4 or not _is_whole(body):
            return
        yield body[:-4]


def _is_whole(data: bytes) -> bool:
    """Whether data match the checksum in their last four bytes."""
    return struct.unpack("<I", data[-4:])[0] == checksum(data[:-4])


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = tuple(map(_crc_of, range(256)))


def checksum(data: bytes) -> int:
    """TFRecord's: CRC-32C (Castagnoli), rotated by 15 bits and moved by a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scalars(event: bytes) -> Iterator[Scalar]:
    """Those of one `Event`: wall_time = 1, step = 2, summary = 5 { value = 1 }."""
    time, step, summary = 0.0, 0, b""
    for number, kind, content in _fields(event):
        if (number, kind) == (1, _EIGHT_BYTES):
            (time,) = struct.unpack("<d", content)
        elif (number, kind) == (2, _VARINT):
            step = int.from_bytes(content, "little")
        elif (number, kind) == (5, _BYTES):
            summary = content
    for number, kind, content in _fields(summary):
        if (number, kind) == (1, _BYTES):
            tag, value = _value(content)
            if value is not None:
                yield Scalar(tag, step, value, time)


def _value(message: bytes) -> tuple[str, float | None]:
    """A `Summary.Value`: tag = 1, simple_value = 2, tensor = 8; None for images, histograms and the like."""
    tag, value = "", None
    for number, kind, content in _fields(message):
        if (number, kind) == (1, _BYTES):
            tag = content.decode(errors="replace")
        elif (number, kind) == (2, _FOUR_BYTES):
            (value,) = struct.unpack("<f", content)
        elif (number, kind) == (8, _BYTES):
            value = _only_float(content)
    return tag, value


def _only_float(tensor: bytes) -> float | None:
    """The number of a `TensorProto` with one float: tensor_content = 4, or float_val = 5 (packed)."""
    for number, kind, content in _fields(tensor):
        if number in (4, 5) and kind in (_BYTES, _FOUR_BYTES) and len(content) == 4:
            return float(struct.unpack("<f", content)[0])
    return None


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(field number, wire type, content) of a message; a varint's content is its value, little-endian."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, kind, value.to_bytes(10, "little")
            continue
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if size is None:
            size, at = _varint(message, at)
        yield key >> 3, kind, message[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
