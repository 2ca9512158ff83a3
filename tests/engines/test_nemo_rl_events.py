"""TensorBoard's event files, read while they grow; their format is checked against TensorBoard's own code."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path

import pytest
from nemo_rl_case import STANDIN

sys.path.append(str(STANDIN))

from event_file import EventFile

from nano_exp.engines.nemo_rl.events import Folder, Scalar, checksum, scalars

THIRD = struct.unpack("<f", struct.pack("<f", 1 / 3))[0]


def write(folder: Path) -> Path:
    file = EventFile(folder)
    for step in (0, 1, 300, 2**40):
        file.add("train/loss", 1 / 3, step, at=1.5)
        file.add("validation/β accuracy", -0.0, step, at=2.5)
    return file.path


EXPECTED = [
    scalar
    for step in (0, 1, 300, 2**40)
    for scalar in (Scalar("train/loss", step, THIRD, 1.5), Scalar("validation/β accuracy", step, -0.0, 2.5))
]


def test_every_scalar_is_read_once_with_its_exact_value(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert list(folder.look()) == [] and not folder.written
    write(tmp_path)
    assert list(folder.look()) == EXPECTED and folder.written
    assert list(folder.look()) == []


def test_a_record_that_is_not_whole_yet_is_read_later(tmp_path: Path) -> None:
    path = write(tmp_path)
    data, folder, found = path.read_bytes(), Folder(tmp_path), []
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        found += folder.look()
        assert found == EXPECTED[: len(found)]
    assert found == EXPECTED


def test_what_is_damaged_is_not_believed_and_read_once_it_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path)
    data, folder = path.read_bytes(), Folder(tmp_path)
    for at in range(len(data) - 60, len(data)):  # in the last record and the one before
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        assert list(Folder(tmp_path).look()) in (EXPECTED[:6], EXPECTED[:7])
    path.write_bytes(data[:-20] + bytes(20))  # another client of the file system sees the size before the content
    assert list(folder.look()) == EXPECTED[:7]
    path.write_bytes(data)
    assert list(folder.look()) == EXPECTED[7:]


def test_folders_below_and_other_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "1795900522.35")  # add_hparams
    (tmp_path / "notes.txt").write_text("x")
    assert list(Folder(tmp_path).look()) == []


def test_several_files_of_a_folder_are_read(tmp_path: Path) -> None:
    write(tmp_path).rename(tmp_path / "events.out.tfevents.1.host.1.0")
    write(tmp_path)
    assert len(list(Folder(tmp_path).look())) == 2 * len(EXPECTED)


def test_the_checksum_is_castagnolis() -> None:
    crc = (checksum(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283  # the catalogue's check value


# --- TensorBoard's own ----------------------------------------------------------------------------------------------


def test_it_reads_what_torchs_writer_writes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install -e '.[dev]'")
    from torch.utils.tensorboard import SummaryWriter

    values = {"train/loss": 0.1, "train/nan": math.nan, "train/inf": -math.inf, "a b/(c)": 1e-45, "timing/x": 16777217}
    writer = SummaryWriter(log_dir=str(tmp_path))
    for step in (0, 7):
        for name, value in values.items():
            writer.add_scalar(name, value, step)
    writer.add_scalar("new/style", 0.3, 7, new_style=True)
    writer.add_text("text", "words", 7)
    writer.add_hparams({"lr": 0.1, "none": None}, {})
    writer.close()
    found = list(Folder(tmp_path).look())
    single = struct.Struct("<f")
    expected = [(n, s, single.unpack(single.pack(v))[0]) for s in (0, 7) for n, v in values.items()]
    expected.append(("new/style", 7, single.unpack(single.pack(0.3))[0]))
    assert repr([(s.tag, s.step, s.value) for s in found]) == repr(expected)


def test_tensorboards_reader_reads_what_the_stand_in_writes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install -e '.[dev]'")
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    records = list(RawEventFileLoader(str(write(tmp_path))).Load())
    events = [Event.FromString(record) for record in records]
    theirs = [Scalar(v.tag, e.step, v.simple_value, e.wall_time) for e in events for v in e.summary.value]
    assert theirs == EXPECTED == [scalar for record in records for scalar in scalars(record)]
