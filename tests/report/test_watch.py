"""`nano-exp watch` on a real terminal: a pseudo terminal whose screen pyte keeps."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
import pytest
from core_case import dead_process, environment, heed_ctrl_c, intend, make_attempt, make_run, nano_exp
from pace import limit

from nano_exp.store import runs
from nano_exp.store.runs import Owner


class Terminal:
    """A command on a pseudo terminal of a size."""

    def __init__(self, folder: Path, *arguments: str, columns: int = 80, rows: int = 24, **env: str) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.file, child = pty.openpty()
        self._resize(columns, rows)
        code = "import sys; from nano_exp.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=environment(**{"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **env}),
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=lambda: (heed_ctrl_c(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
        )
        os.close(child)

    def _resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self._resize(columns, rows)

    def type(self, keys: str) -> None:
        os.write(self.file, keys.encode())

    def wait(self, *words: str, seconds: float = 30) -> str:
        """The screen's text once all these words are on it."""
        until = time.monotonic() + limit(seconds)
        while time.monotonic() < until:
            if select.select([self.file], [], [], 0.05)[0]:
                try:
                    self.stream.feed(os.read(self.file, 65536))
                except OSError:  # it has ended
                    time.sleep(0.05)
            shown = "\n".join(self.screen.display)
            if all(word in shown for word in words):
                return shown
        raise AssertionError(f"{words} did not come:\n" + "\n".join(self.screen.display))

    def ended(self) -> int:
        """The exit code; what it still prints is read, else it could not end."""
        until = time.monotonic() + limit(30)
        while self.process.poll() is None and time.monotonic() < until:
            if select.select([self.file], [], [], 0.05)[0]:
                try:
                    self.stream.feed(os.read(self.file, 65536))
                except OSError:
                    break
        return self.process.wait(timeout=limit(10))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.file)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A run that is done, one that failed, and one that a process of this machine executes: this one."""
    results = tmp_path / "results"
    for number, kind in enumerate(("done", "failed")):
        folder = make_run(results, run=f"r{number}", record={"max_steps": 4, "overrides": [f"grpo.seed={number}"]})
        made = make_attempt(folder, 1, dead_process(), {"kind": kind, "why": "engine: exit code 1"})
        (made / "stdout.log").write_text(f"output of r{number}\n")
        rows = "".join(f'{{"step": {n}, "train/reward": {n / 4}}}\n' for n in range(1, 5))
        (folder / "metrics.jsonl").write_text(rows)
    sleeper = subprocess.Popen(["sleep", "600"])
    here = runs.this_process()
    owner = Owner(None, 0, here.host, sleeper.pid, runs.process_start(sleeper.pid) or 0.0)
    folder = make_run(results, run="r2", record={"max_steps": 4, "overrides": ["grpo.seed=2"]})
    intend(folder, local=owner)
    make_attempt(folder, 1, owner)
    yield tmp_path
    sleeper.kill()
    sleeper.wait()


@pytest.fixture
def terminal(store: Path) -> Iterator[Terminal]:
    made = Terminal(store, "watch")
    yield made
    made.close()


def test_a_watch_from_start_to_end(terminal: Terminal, store: Path) -> None:
    shown = terminal.wait("r0", "r1", "r2", "q quit")
    assert "▁▃▆█" in shown
    assert "1 done, 1 failed, 1 running" in shown
    # what changes appears by itself
    (store / "results" / "name" / "r2" / "metrics.jsonl").write_text('{"step": 3, "train/reward": 0.625}\n')
    terminal.wait("3/4", "0.625")
    # another size
    terminal.resize(120, 30)
    header, *rows = terminal.wait("GPU-h", "1/3").split("\n")[1:5]
    assert [line.split()[4] for line in (header, *rows)] == ["seed", "0", "1", "2"]
    terminal.resize(50, 10)
    shown = terminal.wait("q quit")
    assert max(len(line.rstrip()) for line in shown.split("\n")) <= 50
    terminal.resize(80, 24)
    # a log, and back
    terminal.type("j")
    terminal.wait("r1: failed, engine: exit code 1")
    terminal.type("l")
    terminal.wait("output of r1", "Enter goes back")
    terminal.type("\n")
    terminal.wait("r1: failed", "q quit")
    # cancel asks
    terminal.type("j")
    terminal.wait("r2: running")
    terminal.type("c")
    terminal.wait("cancel r2 (running", "y/n")
    terminal.type("n")
    terminal.wait("r2: no cancel")
    terminal.type("cy")
    terminal.wait("cancelled 1 run")
    terminal.wait("lost")
    terminal.type("q")
    assert terminal.ended() == 0


def test_ctrl_c_ends_it_and_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.wait("q quit")
    terminal.type("\x03")
    assert terminal.ended() == 0


def test_mistakes_are_said_before_the_screen_is_taken(store: Path) -> None:
    made = Terminal(store, "watch", "nme")
    assert made.ended() == 2
    assert "no run and no name 'nme'" in "\n".join(made.screen.display)
    made.close()
    made = Terminal(store, "watch", TERM="dumb-and-unknown")
    assert made.ended() == 2
    assert "TERM=dumb-and-unknown" in "\n".join(made.screen.display)
    made.close()


def test_without_a_terminal_status_is_pointed_to(store: Path) -> None:
    done = nano_exp(store, "watch")
    assert done.returncode == 2
    assert "is not a terminal" in done.stderr
    assert "nano-exp status" in done.stderr.splitlines()[2]
