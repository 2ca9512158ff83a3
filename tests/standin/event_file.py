"""The stand-in's TensorBoard: scalars in event files as SummaryWriter writes them, each record at once."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path


def checksum(data: bytes) -> bytes:
    """CRC-32C bit by bit, rotated and moved, as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    """A message or a text inside a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


class EventFile:
    """One event file in a folder, which is made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.0"
        self.path = folder / name
        self._write(field(3, b"brain.Event:2"), time.time())

    def add(self, tag: str, value: float, step: int, at: float | None = None) -> None:
        summary = field(1, field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        counted = b"\x10" + varint(step) if step else b""
        self._write(counted + field(5, summary), time.time() if at is None else at)

    def _write(self, content: bytes, at: float) -> None:
        event = b"\x09" + struct.pack("<d", at) + content
        length = struct.pack("<Q", len(event))
        with self.path.open("ab") as file:
            file.write(length + checksum(length) + event + checksum(event))
