"""NeMo RL's metrics as rows of metrics.jsonl: every scalar that it logs, from its TensorBoard events.

Its Logger writes `<log_dir>/exp_NNN/tensorboard/events.out.tfevents.*` (a new exp_NNN at each start; the folder below
that one holds hyperparameters). It keys a row by the run's step, from 1; validation and set-up before the first step
have step 0. Stdout has a few of the same numbers, rounded; its rows are for steps whose events were lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nano_exp.engines.nemo_rl.events import Folder, Scalar
from nano_exp.engines.nemo_rl.stdout import Reader, Row

#: monitor_gpus logs under this prefix, with seconds for a step (utils/logger.py RayGpuMonitorLogger).
NOT_BY_STEP = "ray/"
#: What NeMo RL logs last of a step, at all versions.
ENDS_A_STEP = "timing/train/"
#: A row that stdout has is not waited for longer than this, seconds: a writer whose disk was full once writes nothing
#: any more, and buffered ones write every two minutes.
LATE_S = 300.0


def follow(
    log_dir: Path, lines: Iterable[str | None], resumes_from: int, clock: Callable[[], float] = time.time
) -> Iterator[Row]:
    """Rows, one a step, each as soon as the step is known to be whole.

    Parameters
    ----------
    log_dir: logger.log_dir, the parent of the attempts' folders
    lines: NeMo RL's stdout; None each time that it has nothing more for now
    resumes_from: the step that the attempt went on from; it logs its set-up again, as step 0, which is left out
    clock: unix time, seconds
    """
    printed, merged = Reader(resumes_from, clock), _Merged(resumes_from)
    for line in lines:
        if line is not None:
            merged.printed.extend(printed.feed(line))
            continue
        merged.find(log_dir, printed.log_dir)
        yield from merged.look(clock())
    merged.printed.extend(printed.flush())
    merged.find(log_dir, printed.log_dir)
    yield from merged.end()


class _Merged:
    """Logged rows as they become whole, and printed ones in the place of those that do not come."""

    def __init__(self, resumes_from: int) -> None:
        self.printed: list[Row] = []  # not yet known to be logged too
        self._folder: Folder | None = None
        self._steps = Steps(resumes_from)
        self._logged: dict[int, set[str]] = {}  # names of the steps that were given out

    def find(self, log_dir: Path, name: str) -> None:
        if self._folder is None and name:
            self._folder = Folder(log_dir / name / "tensorboard")

    def look(self, now: float) -> Iterator[Row]:
        yield from self._take(ended=False)
        written = self._folder is not None and self._folder.written
        yield from self._missing(lambda row: not written or row["time"] < now - LATE_S)

    def end(self) -> Iterator[Row]:
        yield from self._take(ended=True)
        yield from self._missing(lambda row: True)

    def _take(self, ended: bool) -> Iterator[Row]:
        if self._folder is not None:
            for scalar in self._folder.look():
                self._steps.add(scalar)
        for row in self._steps.whole(ended):
            yield from self._once(row)

    def _missing(self, due: Callable[[Row], bool]) -> Iterator[Row]:
        """Printed rows that are due, but those that were logged."""
        waiting, self.printed = self.printed, []
        for row in waiting:
            if not self._was_logged(row):
                if due(row):
                    yield from self._once(row)
                else:
                    self.printed.append(row)

    def _was_logged(self, row: Row) -> bool:
        """Whether its block was: by the one metric that each has, or by any where the end cut that one off."""
        names = {"train/reward", "validation/accuracy"} & row.keys() or row.keys() - {"step", "time"}
        return bool(self._logged.get(row["step"], set()) & names)

    def _once(self, row: Row) -> Iterator[Row]:
        """A row without what was given out of its step before: a late scalar gets a line of its own, not a second."""
        logged = self._logged.setdefault(row["step"], {"step", "time"})
        new = {name: value for name, value in row.items() if name not in logged}
        logged.update(new)
        if new:
            yield {"step": row["step"], "time": row["time"], **new}


class Steps:
    """Scalars, gathered into steps.

    Parameters
    ----------
    resumes_from: steps up to this one are in metrics.jsonl already; 0 takes the validation before the first step too
    """

    def __init__(self, resumes_from: int) -> None:
        self._first = resumes_from + 1 if resumes_from else 0
        self._open: dict[int, dict[str, Any]] = {}
        self._touched: set[int] = set()  # since the last call of `whole`

    def add(self, scalar: Scalar) -> None:
        """The last one of a name wins: some versions log a step's rollouts twice."""
        if scalar.step >= self._first and not scalar.tag.startswith(NOT_BY_STEP):
            row = self._open.setdefault(scalar.step, {"step": scalar.step})
            row.update({"time": scalar.time, scalar.tag: scalar.value})
            self._touched.add(scalar.step)

    def whole(self, ended: bool = False) -> Iterator[Row]:
        """Rows of the steps of which no more is to come: there is a later one, or nothing was added since the last call
        to one that has its timings, or the process `ended`."""
        newest, touched = max(self._open, default=0), self._touched
        self._touched = set()
        for step in sorted(self._open):
            quiet = step not in touched and _has_timings(self._open[step])
            if ended or step < newest or quiet:
                yield self._open.pop(step)


def _has_timings(row: Mapping[str, Any]) -> bool:
    return any(name.startswith(ENDS_A_STEP) for name in row)
