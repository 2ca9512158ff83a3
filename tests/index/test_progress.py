"""Progress: what is read from a run's newest metrics, and how it is said."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from core_case import dead_process, make_attempt, make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_exp import text
from nano_exp.index import progress
from nano_exp.index.progress import Sample
from nano_exp.store import phase
from nano_exp.terminal import progress_line
from nano_exp.terminal.progress_line import Live


def write(folder: Path, rows: list[dict[str, Any]], end: str = "\n") -> None:
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + end)


def train(step: int, seconds_a_step: float = 2.0) -> dict[str, Any]:
    return {"step": step, "time": 1000 + step * seconds_a_step, "train/reward": step / 100}


def test_the_newest_rows_tell_where_a_run_stands(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    rows = [train(step) for step in range(1, 31)]
    write(folder, [*rows[:20], {"step": 20, "time": 1, "validation/accuracy": 0.5}, *rows[20:]])
    assert progress.sample(folder) == Sample(30, 0.30, 0.5, 0.5, "")


def test_the_rate_is_that_of_the_newest_steps(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    slow = [train(step, 10.0) for step in range(1, 11)]
    fast = [{**train(step), "time": slow[-1]["time"] + (step - 10) * 0.5} for step in range(11, 40)]
    write(folder, slow + fast)
    assert progress.sample(folder).rate == pytest.approx(2.0)


def test_one_row_has_no_rate_and_half_a_row_is_not_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    write(folder, [train(1)], end='\n{"step": 2, "train/rew')
    assert progress.sample(folder) == Sample(1, 0.01, None, None)


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    write(folder, [{**train(step), "padding": "x" * 500} for step in range(1, 1001)])
    assert progress.sample(folder).step == 1000
    assert progress.sample(folder).rate == pytest.approx(0.5)


def test_before_the_first_step_the_engines_newest_line_is_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert progress_line.text("r1", progress.sample(folder), 10) == "r1  starting ..."
    made = make_attempt(folder, 1, dead_process())
    (made.parent / "latest").symlink_to("1")
    (made / "stdout.log").write_text("loading\nwarm start 3/100\n\nhalf a li")
    write(folder, [{"step": 0, "time": 1.0, "validation/accuracy": 0.1}])
    assert progress_line.text("r1", progress.sample(folder), 10) == "r1  warm start 3/100"


def test_before_the_first_step_the_phase_is_named_and_neither_workers_nor_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path)
    made = make_attempt(folder, 1, dead_process())
    (made.parent / "latest").symlink_to("1")
    monkeypatch.setattr(progress.time, "time", lambda: 1150.0)
    (made / "stdout.log").write_text(
        "\x1b[1m  ✓ Ray cluster for policy initialized with 1 nodes\x1b[0m\n"
        "\x1b[36m(VllmGenerationWorker pid=5417)\x1b[0m INFO 11-28 22:01:35 [model.py:555] Resolved\n"
        "Error fetching metrics from 127.0.0.1:-1: Failed to parse: http://127.0.0.1:-1/metrics\n"
    )
    phase.write(made, phase.Now("vllm", 1000.0))
    now = progress.sample(folder)
    said = "r1  starting vLLM, 2 min 30 s  ✓ Ray cluster for policy initialized with 1 nodes"
    assert progress_line.text("r1", now, 10) == said
    with (made / "stdout.log").open("a") as file:  # so long that its beginning is not read
        file.write("\x1b[36m(VllmGenerationWorker pid=5417)\x1b[0m INFO env vars: " + "'X': '***', " * 1500 + "\n")
        file.write("Error during policy shutdown: preexec_fn not supported at interpreter shutdown\n")
    assert progress_line.text("r1", progress.sample(folder), 10) == "r1  starting vLLM, 2 min 30 s"
    assert progress_line.many([("r1", now, 10)], 2, 3) == "2/3 ended  r1 0/10 (starting vLLM)"
    write(folder, [train(4)])
    assert progress_line.text("r1", progress.sample(folder), 10) == "r1  step 4/10  reward 0.040  starting vLLM"
    phase.write(made, phase.Now("step", 1000.0))
    assert progress.sample(folder).phase == ""
    phase.write(made, phase.Now("save", 1000.0))
    (made / "end.json").write_text("{}")
    assert progress.sample(folder).phase == "", "it is over"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (18720, "5 h 12 min"),
        (86400 * 2 + 3 * 3600 + 59, "2 d 3 h"),
        (86400 + 59, "1 d"),
        (-5, "0 s"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


@given(st.floats(0, 1e9))
@settings(max_examples=200, deadline=None)
def test_a_duration_read_back_is_near(seconds: float) -> None:
    """At most two units, so off by less than one of the smaller unit."""
    unit = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    words = text.duration(seconds).split()
    assert len(words) in (2, 4)
    read = sum(int(n) * unit[u] for n, u in zip(words[::2], words[1::2], strict=True))
    following = {"d": 3600, "h": 60, "min": 1, "s": 1}[words[1]]
    assert abs(seconds - read) <= following


def test_a_line_says_what_is_known() -> None:
    whole = Sample(40, 0.614, 0.55, 4.0)
    assert (
        progress_line.text("r1", whole, 120)
        == "r1  step 40/120  reward 0.614  validation 0.550  4.0 steps/s  20 s left"
    )
    slow = Sample(2, 0.5, None, 1 / 300)
    assert progress_line.text("r1", slow, 4) == "r1  step 2/4  reward 0.500  5 min a step  10 min left"
    assert progress_line.text("r1", Sample(1, 0.5), 4) == "r1  step 1/4  reward 0.500"


def test_a_line_for_many_runs_shows_the_first_ones() -> None:
    samples = [(f"r{n}", Sample(n, n / 10), 10) for n in range(1, 7)]
    line = progress_line.many(samples, 3, 9)
    assert line.startswith("3/9 ended  r1 1/10 reward 0.10  r2 2/10 reward 0.20")
    assert line.endswith("r4 4/10 reward 0.40  and 2 more")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_log_lines_come_now_and_then() -> None:
    out = io.StringIO()
    live = Live(out, every_s=3600)
    for line in ("one", "one", "two", "three"):
        live.show(line)
    live.clear()
    assert out.getvalue() == "one\n"
    often = Live(out := io.StringIO(), every_s=0)
    for line in ("one", "one", "two"):
        often.show(line)
    assert out.getvalue() == "one\ntwo\n"
    assert "\x1b" not in out.getvalue()


def test_on_a_terminal_one_line_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    live = Live(out)
    live.show("x" * 50)
    live.show("second")
    live.say("lasting")
    live.clear()
    assert out.getvalue() == "\r\x1b[2K" + "x" * 19 + "\r\x1b[2Ksecond" + "\r\x1b[2K" + "lasting\n"


def test_a_validation_long_ago_is_found_in_rows_that_are_long(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    rows = [{**train(step), "text": "x" * 1000} for step in range(1, 400)]
    write(folder, [{"step": 1, "validation/accuracy": 0.25}, *rows])
    assert progress.newest(folder) == progress.Newest(399, 3.99, 0.25)
    assert progress.sample(folder).accuracy == 0.25


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_wait_is_said_on_a_terminal_and_wiped_out_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for out, said in ((Tty(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", out)
        with progress_line.waiting("asking Slurm ...", after_s=0.0):
            threading.Event().wait(0.3)
        assert ("asking Slurm ..." in out.getvalue()) is said
        assert out.getvalue().endswith("\r\x1b[2K") is said
    quick = Tty()
    monkeypatch.setattr("sys.stderr", quick)
    with progress_line.waiting("asking Slurm ...", after_s=60):
        pass
    assert quick.getvalue() == ""
