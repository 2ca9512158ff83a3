"""Whether a model's folder has all of its weights: every file of its index, each as long as its own header says.

A snapshot of the Hugging Face cache that was cut off has its config.json and some of its weights; a clone without
Git LFS has every name, and a few lines of text behind each.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(?P<stem>model|pytorch_model)-\d{5}-of-(?P<count>\d{5})(?P<ending>\.safetensors|\.bin)")
#: A safetensors header is a few hundred KB; a longer one is no header.
_LONGEST_HEADER = 100 * 1024 * 1024


def lacking(folder: Path) -> tuple[str, ...]:
    """The files that a model of Hugging Face's form needs and that are not there or not whole, by name; none where all
    are. The headers of its weights are read, not the weights."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    return (*missing, *(name for name in _needed(folder) if not whole(folder / name)))


def whole(path: Path) -> bool:
    """Whether a file of weights is there to its end; of another format than safetensors, whether it has anything."""
    try:
        size = path.stat().st_size
        if path.suffix != ".safetensors":
            return size > 0
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _LONGEST_HEADER):
                return False
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, struct.error, AttributeError, TypeError, KeyError, IndexError):
        return False
    return bool(size == 8 + length + max(ends, default=0))


def indexed(index: Path) -> list[str]:
    """The files of weights that an index names; nothing where it cannot be read."""
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _needed(folder: Path) -> list[str]:
    for name in INDEXES:
        if (folder / name).is_file():
            return indexed(folder / name) or [name]
    for name in SINGLE:
        if (folder / name).is_file():
            return [name]
    shards = [match for path in folder.glob("*-of-*") if (match := _SHARD.fullmatch(path.name))]
    if not shards:
        return [SINGLE[0]]
    stem, count, ending = shards[0]["stem"], int(shards[0]["count"]), shards[0]["ending"]
    names = [f"{stem}-{number:05d}-of-{count:05d}{ending}" for number in range(1, count + 1)]
    return [f"{stem}{ending}.index.json", *names]
