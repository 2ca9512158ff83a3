"""NeMo RL's own Logger: what an attempt reads of its events is what TensorBoard reads, to the last bit.

Runs where NANO_EXP_NEMO_RL names a checkout; needs `pip install -e '.[dev]'`.
"""

from __future__ import annotations

import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from nano_exp.engines.nemo_rl.metrics import follow

HERE = Path(__file__).resolve().parent
CHECKOUT = os.environ.get("NANO_EXP_NEMO_RL", "")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="NANO_EXP_NEMO_RL names no NeMo RL checkout")


def as_tensorboard_reads(folder: Path) -> dict[int, dict[str, bytes]]:
    """step -> name -> the bits of its last float32, without ray/."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    found: dict[int, dict[str, bytes]] = {}
    (path,) = folder.glob("events.out.tfevents.*")
    for record in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(record)
        for value in event.summary.value:
            if not value.tag.startswith("ray/"):
                found.setdefault(event.step, {})[value.tag] = struct.pack("<f", value.simple_value)
    return found


def test_rows_are_its_events_to_the_last_bit_also_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "exp_001").mkdir()  # an earlier attempt's
    done = subprocess.run(
        [sys.executable, str(HERE / "log_upstream.py"), CHECKOUT, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    rows = list(follow(tmp_path, done.stdout.splitlines(), 0))
    truth = as_tensorboard_reads(tmp_path / "exp_002" / "tensorboard")
    assert [row["step"] for row in rows] == sorted(truth) == [0, 1, 2, 3]
    for row in rows:
        names = row.keys() - {"step", "time"}
        assert {name: struct.pack("<f", row[name]) for name in names} == truth[row["step"]]
    assert set(rows[0]) == {"step", "time", "timing/setup/total_setup_time_s", "validation/accuracy"}
    assert math.isnan(rows[2]["train/grad_norm"]) and rows[1]["train/grad_norm"] == math.inf
    assert len(rows[1]) == len(rows[3]) + 2  # the timings
    assert [row["step"] for row in follow(tmp_path, done.stdout.splitlines(), 2)] == [3]  # resumed
