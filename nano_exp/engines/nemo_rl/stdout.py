"""Read NeMo RL's stdout: metrics rows while it trains, and how it said that it ended.

Written for what nemo_rl/algorithms/grpo.py prints at v0.7.0 (line numbers of that file in brackets):

    ===== Epoch e/E =====                  [2230] sync only; e counts from 1
    ===== Step k/n =====                   [2244, 2249, 3652] k counts inside the epoch (sync) or over the run (async);
                                           n is the epoch's length or max_num_steps, whichever is less
    Starting validation at step N...       [3158] N counts over the run; the results follow [3264-3272]
    Saving checkpoint for step N...        [2930, 4169] N counts over the run
    Logged data to .../train_data_stepN.jsonl   [2992, 4226] absent when NeMo Gym's responses are logged
    Training Results:  Timing:             [3044-3083, 4269-4286] after the step, checkpoint included
    Performance Metrics:                   [utils.py] ends the timing block

It prints four decimals, so that is the precision of these rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Row = dict[str, Any]

_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf))"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Lines that Ray forwards from its workers: "(Worker pid=12, ip=10.0.0.1) text". NeMo RL's driver prints without one.
_FROM_WORKER = re.compile(r"^\s*\([^()]*\bpid=\d+[^()]*\)")
_EPOCH = re.compile(r"={10,} Epoch (\d+)/(\d+) ={10,}")
_STEP = re.compile(r"={10,} Step (\d+)/(\d+) ={10,}")
_VALIDATION_AT = re.compile(r"Starting validation at step (\d+)")
_STEP_OF_RUN = re.compile(r"(?:Saving checkpoint for step (\d+)\.\.\.|Logged data to .*train_data_step(\d+)\.jsonl)")
_SECONDS = re.compile(rf"•\s+([\w./ -]+?): {_NUMBER}s(?:\s|$)")
_BULLET = re.compile(rf"•\s+([A-Za-z][\w ]*?): {_NUMBER}(?:\s|$)")

# What NeMo RL prints -> the name under which it logs the same number.
_TRAIN = {
    "Loss": "train/loss",
    "Draft Loss": "train/draft_loss",
    "Generation KL Error": "train/gen_kl_error",
    "Avg Reward": "train/reward",
    "Avg Filtered Reward": "train/filtered_reward",
    "Avg Total Reward": "train/reward",
    "Mean Generation Length": "train/mean_gen_tokens_per_sample",
    "Buffer Size": "train/buffer_size",
    "Avg Trajectory Age": "train/avg_trajectory_age",
}
_VALIDATION = {"Accuracy": "validation/accuracy", "Average response length": "validation/avg_length"}

_NOTICES = (
    ("async_error", "Error in async loop:"),
    ("timeout", "Timeout has been reached, stopping training early"),
    ("max_steps", "Max number of steps has been reached, stopping training early"),
)


def stop_notice(stdout_tail: str) -> str | None:
    """Why NeMo RL said that it stopped: "timeout", "max_steps", "async_error", or None when it said nothing.

    Nothing is what it says after its last epoch, and when it was killed.
    """
    for name, text in _NOTICES:
        if text in stdout_tail:
            return name
    return None


def follow(lines: Iterable[str], clock: Callable[[], float] = time.time) -> Iterator[Row]:
    """Rows for metrics.jsonl, each as soon as its last line was read.

    Parameters
    ----------
    lines: NeMo RL's stdout, as lines or as the pieces of lines that a tail reads; a piece without its newline waits
        for the rest once any newline was seen
    clock: unix time in seconds, for the rows' `time`
    """
    reader = _Reader(clock)
    held, newlines_seen = "", False
    for piece in lines:
        held += piece
        newlines_seen = newlines_seen or "\n" in piece
        whole, sep, rest = held.rpartition("\n")
        if sep:
            held = rest
            for line in whole.split("\n"):
                yield from reader.feed(line)
        elif not newlines_seen:
            held = ""
            yield from reader.feed(piece)
    yield from reader.flush()


class _Reader:
    """The state between two lines: which step it is, which block is being read, the row in the making."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._epoch = 0  # from 1; 0 before the first epoch line and in async runs, which print none
        self._epoch_is_new = False
        self._banner = 0  # k of the last "Step k/n"
        self._before_epoch: int | None = None  # steps of the run before this epoch; None until it can be known
        self._finished: int | None = None  # the run's last step whose results were read
        self._validation_step: int | None = None
        self._block = ""  # "train", "timing" or "validation": the block that bullets belong to
        self._row: Row = {}

    def feed(self, raw: str) -> Iterator[Row]:
        # A progress bar ends its text with \r and leaves the next line glued behind it.
        line = _ANSI.sub("", raw).rstrip("\r").rpartition("\r")[2]
        if not line.strip() or _FROM_WORKER.match(line):
            return
        if match := _EPOCH.search(line):
            yield from self.flush()
            self._epoch, self._epoch_is_new = int(match[1]), True
        elif match := _STEP.search(line):
            yield from self.flush()
            self._start_step(int(match[1]), int(match[2]))
        elif match := _VALIDATION_AT.search(line):
            yield from self.flush()
            self._validation_step = int(match[1])
            self._anchor(self._validation_step)
        elif match := _STEP_OF_RUN.search(line):
            self._anchor(int(match[1] or match[2]))
        elif "Training Results:" in line:
            yield from self.flush()
            self._block = "train"
        elif "Validation Results:" in line:
            yield from self.flush()
            self._block = "validation"
        elif "Performance Metrics:" in line:
            yield from self.flush()
        elif self._block == "train" and line.strip().endswith("Timing:"):
            self._block = "timing"
        elif self._block:
            yield from self._bullet(line)

    def flush(self) -> Iterator[Row]:
        """The row in the making, if it has anything in it, and the end of its block."""
        block, row, self._block, self._row = self._block, self._row, "", {}
        if not row:
            return
        if block == "validation":
            step = self._validation_step
        else:
            step = self._finished = None if self._before_epoch is None else self._before_epoch + self._banner
        if step is not None:
            yield {"step": step, "time": self._clock(), **row}

    def _start_step(self, banner: int, of: int) -> None:
        if self._before_epoch is None:
            # The first step seen. A run of several epochs has n = the epoch's length (n = max_num_steps allows one).
            self._before_epoch = max(self._epoch - 1, 0) * of
        elif self._epoch_is_new:
            self._before_epoch = self._finished if self._finished is not None else self._before_epoch + self._banner
        self._epoch_is_new = False
        self._banner = banner

    def _anchor(self, step_of_run: int) -> None:
        """NeMo RL named the running step's number in the run: count from it."""
        if self._banner and step_of_run >= self._banner:
            self._before_epoch = step_of_run - self._banner

    def _bullet(self, line: str) -> Iterator[Row]:
        if self._block == "timing":
            if match := _SECONDS.search(line):
                name = "total_step_time" if match[1] == "Total step time" else match[1]
                self._row[f"timing/train/{name}"] = float(match[2])
            return
        if match := _SECONDS.search(line):
            if self._block == "validation" and match[1] == "Total validation time":
                self._row["timing/validation/total_validation_time"] = float(match[2])
                yield from self.flush()
            return
        if match := _BULLET.search(line):
            name = (_TRAIN if self._block == "train" else _VALIDATION).get(match[1])
            if name:
                self._row[name] = float(match[2])
