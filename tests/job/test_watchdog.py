"""When a run counts as stalled, and what is kept of its stacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from core_case import wait_for

from nano_exp.errors import UserError
from nano_exp.job import watchdog
from nano_exp.job.watchdog import Rule, look

RULE = Rule("report", 10.0, 600.0)
STEPS = [(4, 1000.0), (5, 1100.0), (6, 1200.0), (7, 1310.0)]  # median 100 s


def test_a_stall_is_many_times_the_median_step() -> None:
    assert look(RULE, STEPS, 1310 + 999.0) is None
    found = look(RULE, STEPS, 1310 + 1000.0)
    assert found is not None
    assert (found.step, found.seconds, found.median_s) == (7, 1000.0, 100.0)
    assert str(found) == "stalled: no new step for 1000 s after step 7, which took 100.0 s"


def test_short_steps_have_the_least_patience_of_the_site() -> None:
    quick = [(n, float(n)) for n in range(1, 9)]
    assert look(RULE, quick, 8 + 599.0) is None
    assert look(RULE, quick, 8 + 600.0) is not None


def test_nothing_is_said_before_the_third_step() -> None:
    """Set-up, compilation and a conversion of weights take a time of their own."""
    assert look(RULE, STEPS[:2], 1e9) is None
    assert look(RULE, [], 1e9) is None


def test_the_site_chooses() -> None:
    assert Rule.of({}) == Rule("report", 10.0, 1800.0)
    assert Rule.of({"on_stall": "restart", "stall_factor": 3, "stall_minutes": 0}) == Rule("restart", 3.0, 0.0)
    with pytest.raises(UserError, match=r"site\.on_stall=reboot") as refused:
        Rule.of({"on_stall": "reboot"})
    assert "site.on_stall=report or site.on_stall=restart" in refused.value.fix


def test_drivers_are_found_by_their_arguments(tmp_path: Path) -> None:
    marker = str(tmp_path / "nemo_rl.yaml")
    process = subprocess.Popen([sys.executable, "-c", "input()", "--config", marker], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: watchdog.drivers(marker) == [process.pid], "the driver")
        assert watchdog.drivers(marker + "x") == []
    finally:
        process.communicate(b"\n")


def test_stacks_come_from_py_spy_where_it_is(tmp_path: Path) -> None:
    spy = tmp_path / "py-spy"
    spy.write_text('#!/bin/sh\necho "stack of $3"\n')
    spy.chmod(0o755)
    assert watchdog.dump([os.getpid()], tmp_path / "stacks.txt", str(tmp_path)) == "py-spy"
    assert f"stack of {os.getpid()}" in (tmp_path / "stacks.txt").read_text()


def test_without_py_spy_the_kernel_tells_what_each_thread_waits_for(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        wait_for(lambda: b"60" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "its arguments")
        how = watchdog.dump([process.pid], tmp_path / "stacks.txt", str(tmp_path))
    finally:
        process.kill()
        process.wait()
    assert "py-spy is not installed" in how
    text = (tmp_path / "stacks.txt").read_text()
    assert f"--- process {process.pid}: sleep 60" in text
    assert f"thread {process.pid} sleep: state " in text


def test_a_process_that_is_gone_and_a_py_spy_that_fails_are_words_in_the_file(tmp_path: Path) -> None:
    spy = tmp_path / "py-spy"
    spy.write_text("#!/bin/sh\necho denied >&2\nexit 1\n")
    spy.chmod(0o755)
    gone = subprocess.Popen(["true"])
    gone.wait()
    watchdog.dump([gone.pid], tmp_path / "stacks.txt", str(tmp_path))
    assert "py-spy: denied" in (tmp_path / "stacks.txt").read_text()
    assert "(ended)" in (tmp_path / "stacks.txt").read_text()
