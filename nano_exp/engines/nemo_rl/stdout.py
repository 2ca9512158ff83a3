"""Read NeMo RL's stdout: where it logs, how far it came, how it said that it ended, and the metrics that it prints.

Written for what nemo_rl/algorithms/grpo.py prints at v0.7.0 (line numbers of that file in brackets); v0.5.0, v0.6.0 and
main print the same but where it is said:

    📊 Using log directory: .../exp_NNN    the scripts' first words; it holds this attempt's TensorBoard events
    ===== Epoch e/E =====                  [2230] sync only; e counts from 1
    ===== Step k/n =====                   [2244, 2249, 3652] k counts inside the epoch (sync) or over the run (async);
                                           n is the epoch's length or max_num_steps, whichever is less. A batch that
                                           dynamic sampling drops repeats its step's line, and has no results
    Starting validation at step N...       [3158] N counts over the run; samples of the model's own text may follow,
                                           then the results, up to "Total validation time" [3264-3272]
    Training Results:  Timing:             [3044-3083, 4269-4286] once a step, checkpoint included
    Performance Metrics:                   [utils.py] ends the timing block

A step's number is that of the checkpoint that the attempt went on from, and one more for each results block: neither
epochs nor dropped batches matter to it. Numbers have four decimals here; all others are in the events (events.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from nano_exp.text import FROM_WORKER, plain

Row = dict[str, Any]
Notice = Literal["async_error", "timeout", "max_steps", "threshold"]

_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf))"
_LOG_DIR = re.compile(r"📊 Using log directory: .*?(exp_\d+)/?")
_EPOCH = re.compile(r"={10,} Epoch (\d+)/(\d+) ={10,}")
_STEP = re.compile(r"={10,} Step (\d+)/(\d+) ={10,}")
_VALIDATION_AT = re.compile(r"▶ Starting validation at step (\d+)\.\.\.")
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

_NOTICES: tuple[tuple[Notice, re.Pattern[str]], ...] = (
    ("async_error", re.compile(r"❌ Error in async loop:")),
    ("timeout", re.compile(r"Timeout has been reached, stopping training early$")),
    ("max_steps", re.compile(r"Max number of steps has been reached, stopping training early$")),
    # main alone: grpo.stop_at_validation_threshold
    ("threshold", re.compile(r"(?:Initial v|V)alidation \S+ reached the early-stop threshold \(")),
)


def read(lines: Iterable[str]) -> Reader:
    """What a whole stdout said."""
    reader = Reader()
    for line in lines:
        for _ in reader.feed(line):
            pass
    return reader


def trains(line: str) -> bool:
    """Whether a line is the first of the training loop's: set-up made all workers, the environments and the conversion.

    The initial validation comes before the first step [2195, 3578].
    """
    return not FROM_WORKER.match(line) and bool(_STEP.search(line) or "Running initial validation" in line)


class Reader:
    """What stdout said so far, line by line.

    Parameters
    ----------
    resumes_from: the step of the checkpoint that the attempt went on from
    clock: unix time in seconds, for the rows' `time`

    Attributes
    ----------
    log_dir: the name of the attempt's folder in logger.log_dir; empty until it was said
    notice: why it said that it stops; None where it said nothing, as after its last epoch, and when it was killed
    """

    def __init__(self, resumes_from: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.log_dir = ""
        self.notice: Notice | None = None
        self._clock = clock
        self._epoch = (0, 0)  # e/E; 0/0 before the first epoch line and in async runs, which print none
        self._banner: tuple[int, int] | None = None  # k/n of this epoch's last step line
        self._has_results = False  # the step of that line
        self._finished = resumes_from  # the run's last step whose results were read
        self._validation_step: int | None = None  # while its samples and results are printed
        self._block = ""  # "train", "timing" or "validation": the block that bullets belong to
        self._row: Row = {}

    def at_end_of_epochs(self, drops_batches: bool) -> bool:
        """Whether the last epoch's last step has its results.

        Parameters
        ----------
        drops_batches: with dynamic sampling an epoch has fewer steps than its banners say, so that only the last epoch
            itself is asked for
        """
        epoch, epochs = self._epoch
        if not epoch or epoch < epochs:
            return False
        if drops_batches or self._banner is None:  # none: an earlier attempt had used up the data
            return True
        return self._has_results and self._banner[0] == self._banner[1]

    def feed(self, raw: str) -> Iterator[Row]:
        """Take a line; rows for metrics.jsonl come as soon as their last line was taken."""
        # A progress bar ends its text with \r and leaves the next line glued behind it.
        line = plain(raw)
        if not line.strip() or FROM_WORKER.match(line):
            return
        if self._validation_step is not None:
            yield from self._validation(line)
        elif match := _EPOCH.fullmatch(line):
            yield from self.flush()
            self._epoch, self._banner = (int(match[1]), int(match[2])), None
        elif match := _STEP.fullmatch(line):
            yield from self.flush()
            self._banner, self._has_results, self.notice = (int(match[1]), int(match[2])), False, None
        elif match := _VALIDATION_AT.fullmatch(line):
            yield from self.flush()
            self._validation_step = int(match[1])
        elif line == "📊 Training Results:":
            yield from self.flush()
            self._block, self._has_results = "train", True
            self._finished += 1
        elif "Performance Metrics:" in line:
            yield from self.flush()
        elif self._block == "train" and line.strip().endswith("Timing:"):
            self._block = "timing"
        elif notice := next((name for name, words in _NOTICES if words.match(line)), None):
            self.notice = notice
        elif self._block:
            self._bullet(line)
        elif not self.log_dir and (match := _LOG_DIR.fullmatch(line)):
            self.log_dir = match[1]

    def flush(self) -> Iterator[Row]:
        """The row in the making, if it has anything in it, and the end of its block."""
        row, self._block, self._row = self._row, "", {}
        step = self._finished if self._validation_step is None else self._validation_step
        self._validation_step = None
        if row:
            yield {"step": step, "time": self._clock(), **row}

    def _validation(self, line: str) -> Iterator[Row]:
        """A line of a validation: the model's text, which may say anything, up to the results."""
        if line == "📊 Validation Results:":
            self._block, self._row = "validation", {}
        elif self._block and (match := _SECONDS.search(line)) and match[1] == "Total validation time":
            self._row["timing/validation/total_validation_time"] = float(match[2])
            yield from self.flush()
        elif self._block and (match := _BULLET.search(line)) and match[1] in _VALIDATION:
            self._row[_VALIDATION[match[1]]] = float(match[2])

    def _bullet(self, line: str) -> None:
        if match := _SECONDS.search(line):
            if self._block == "timing":
                name = "total_step_time" if match[1] == "Total step time" else match[1]
                self._row[f"timing/train/{name}"] = float(match[2])
        elif self._block == "train" and (match := _BULLET.search(line)) and match[1] in _TRAIN:
            self._row[_TRAIN[match[1]]] = float(match[2])
