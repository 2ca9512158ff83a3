"""W&B's own offline files of a run: what the engine gave to wandb beside the numbers of metrics.jsonl.

An offline file (offline-run-TIME-ID/run-ID.wandb) is a LevelDB log of protobuf records: after a header of 7 bytes,
blocks of 32 KiB with chunks of a checksum, a length, a kind and data. One that was cut off by a kill is read as far as
it is whole. Media (tables, histograms, images) are JSON in the records, and files beside them below files/media.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp.store.runs import Run

BLOCK = 32 * 1024
_HEADER = struct.Struct("<4sHB")
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
#: Below the run's log_dir: the embedded engine's, and NeMo RL's (a folder exp_NNN an attempt, and wandb's own in it).
_FOLDERS = ("wandb", "exp_*/wandb/wandb", "exp_*/wandb")
#: wandb's own files in files/: they tell of the process that wrote them, or are made anew.
_WANDBS = ("wandb-metadata.json", "wandb-summary.json", "config.yaml", "requirements.txt", "output.log")
#: Fields of a table that name its copy in an artifact, which is not sent; its file is.
_OF_ARTIFACTS = ("artifact_path", "_latest_artifact_path")


@dataclass(frozen=True)
class Offline:
    """One offline file.

    Parameters
    ----------
    files: the folder of its media and other files
    started: unix seconds
    rows: step -> metric -> value as JSON has it
    """

    files: Path
    started: float
    rows: Mapping[int, Mapping[str, Any]]

    def others(self) -> list[Path]:
        """Files that the engine saved with the run: no media, and none of wandb's own."""
        paths = (path for path in sorted(self.files.rglob("*")) if path.is_file())
        return [p for p in paths if p.name not in _WANDBS and p.relative_to(self.files).parts[0] != "media"]


@dataclass
class Extra:
    """What one step has beside its row of metrics.jsonl.

    Parameters
    ----------
    values: metric -> value: media as wandb writes them, and numbers that metrics.jsonl leaves out (GPU use)
    folder: where the files lie that the media name
    """

    values: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def media(self) -> list[Path]:
        """The files that the values name and that are there."""
        assert self.folder is not None
        named = (value["path"] for value in self.values.values() if isinstance(value, dict) and "path" in value)
        return [path for name in named if (path := self.folder / str(name)).is_file()]


def paths(log_dir: Path) -> list[Path]:
    """The offline files below a run's log_dir."""
    return sorted(p for folder in _FOLDERS for p in log_dir.glob(f"{folder}/offline-run-*/run-*.wandb"))


def live(log_dir: Path) -> bool:
    """Whether an attempt of the run logged to W&B itself."""
    return any(True for folder in _FOLDERS for _ in log_dir.glob(f"{folder}/run-*/run-*.wandb"))


def load(log_dir: Path) -> list[Offline]:
    """Every offline file, oldest first. What is damaged ends its file."""
    return sorted((read(path) for path in paths(log_dir)), key=lambda file: file.started)


def read(path: Path) -> Offline:
    """One offline file, as far as it is whole."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    started, rows = 0.0, dict[int, dict[str, Any]]()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # generated at import
        try:
            record.ParseFromString(data)
        except DecodeError:
            break
        if record.HasField("run"):
            started = record.run.start_time.ToMicroseconds() / 1e6
        elif record.HasField("history"):
            values = _values(record.history.item)
            step = values.get("_step", record.history.step.num)
            rows.setdefault(int(step), {}).update({k: v for k, v in values.items() if not k.startswith("_")})
    return Offline(path.parent / "files", started, rows)


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """A history record's values. wandb writes a media object as one item, or as one for each of its fields."""
    values: dict[str, Any] = {}
    for item in items:
        *above, leaf = item.nested_key or [item.key]
        level = values
        for key in above:
            level = level.setdefault(key, {})
        level[leaf] = json.loads(item.value_json)
    for media in values.values():
        if isinstance(media, dict):
            for key in _OF_ARTIFACTS:
                media.pop(key, None)
    return values


def records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, up to the first that is not whole."""
    at, parts = _HEADER.size, list[bytes]()
    if len(data) < at or _HEADER.unpack_from(data)[0] != b":W&B":
        return
    while True:
        left = BLOCK - at % BLOCK
        if left < _CHUNK.size:  # a block's end that has no room for another chunk
            at += left
            continue
        if at + _CHUNK.size > len(data):
            return
        _, length, kind = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or at + length > len(data):
            return
        parts = [*(parts if kind in (_MIDDLE, _LAST) else []), data[at : at + length]]
        at += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []


def extras(offline_runs: Iterable[Offline], run: Run) -> dict[int, Extra]:
    """Step -> what the newest attempt that kept it gave to wandb; what was trained again later is left out."""
    resumes = [(e.time, int(e.data.get("resumes_from") or 0)) for e in run.events if e.kind == "engine"]
    steps: dict[int, Extra] = {}
    for file in offline_runs:
        last_step = min((step for time, step in resumes if time > file.started), default=None)
        for step, values in file.rows.items():
            if last_step is None or step <= last_step:
                steps[step] = Extra(dict(values), file.files)
    return steps
