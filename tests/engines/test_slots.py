"""The ports of runs that share a host, and what they are told of them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from core_case import STANDIN

from nano_exp.engines import entry, slots
from nano_exp.errors import UserError


def test_blocks_of_two_owners_never_meet_and_a_death_frees_them() -> None:
    first, second = slots.claim(2, 1), slots.claim(3, 2)
    lows = [low for low, _ in (*first, *second)]
    assert len(set(lows)) == 5 and all(abs(a - b) >= slots.SIZE for a in lows for b in lows if a != b)
    for _, held in first:
        held.close()
    again = slots.claim(1, 1)
    assert again[0][0] == first[0][0]
    for _, held in (*second, *again):
        held.close()


def test_a_port_of_rays_that_is_in_use_spoils_its_block() -> None:
    ((low, held),) = slots.claim(1, 1)
    held.close()
    with socket.create_server(("", slots.Slot(low).port("gcs"))):
        ((elsewhere, held),) = slots.claim(1, 1)
    held.close()
    assert elsewhere != low


def test_more_runs_than_blocks_are_refused() -> None:
    assert (slots.most(1), slots.most(2), slots.most(4)) == (17, 17, 8)
    with pytest.raises(UserError, match="free blocks of ports") as caught:
        slots.claim(18, 1)
    assert caught.value.fix.startswith("pack=1")


@pytest.mark.parametrize("gpus", [1, 2, 3, 7])
def test_what_a_run_uses_lies_in_its_block(gpus: int) -> None:
    slot = slots.Slot(20900)
    fixed = [slot.port(name) for name in slots.FIXED]
    ranges = [range(first, last) for first, last in map(slot.range, slots.RANGES)]
    vllm = range(slot.vllm, slot.vllm + 100 * gpus)
    used = [*fixed, *(port for one in (*ranges, vllm) for port in one)]
    assert len(used) == len(set(used))
    assert max(used) < slot.low + slots.width(gpus) * slots.SIZE


def test_what_is_told_is_read_again() -> None:
    assert slots.told({}) is None
    assert slots.told(slots.Slot(21400, 2000).environment) == slots.Slot(21400, 2000)


LOOK = "from nemo_rl.distributed import virtual_cluster as v; import sitecustomize as s; "
LOOK += "print(v.DEFAULT_VLLM_PORT_RANGE_LOW, getattr(s, 'OTHERS', ''))"


@pytest.mark.parametrize(("told", "port"), [({slots.VLLM_PORT: "21200"}, "21200"), ({}, "20001")])
def test_a_python_of_a_slot_gives_vllm_the_runs_own_port(tmp_path: Path, told: dict[str, str], port: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the one that is hidden')\n")
    path = f"{entry.TEMPLATES}:{tmp_path}:{STANDIN}"
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env={"PYTHONPATH": path, **told}, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:2] == ["the one that is hidden", f"{port} "], done.stderr
