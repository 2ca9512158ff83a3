"""Runs for scripts and notebooks: `nano_exp.load("results")`. docs/api.md shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, overload

from nano_exp.errors import UserError
from nano_exp.index.cache import Cache
from nano_exp.report import status
from nano_exp.report.status import Line
from nano_exp.results import Results
from nano_exp.results import load as results_load
from nano_exp.results.ranking import Ranking, rank
from nano_exp.store import axes, metrics_file, runs
from nano_exp.store.queue_lookup import QueueLookup


class Run:
    """One run, as status has it at the time of `load`.

    Parameters
    ----------
    line: every field of it is an attribute here too: state, why, step, max_steps, reward, validation_accuracy,
        gpu_hours, cause, remedy, overrides, ...
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.dir = Path(line.dir)

    def __getattr__(self, name: str) -> Any:
        if name == "line":  # not made yet: unpickling asks for it
            raise AttributeError(name)
        return getattr(self.line, name)

    @property
    def id(self) -> str:
        return self.line.run

    @cached_property
    def config(self) -> dict[str, Any]:
        """The frozen config. Raises files.Damaged or FileNotFoundError."""
        return runs.Run(self.dir).config()

    def metrics(self) -> list[dict[str, Any]]:
        """One row a step, first to last: `step`, `time` (unix seconds), and each metric by NeMo RL's name.

        What a step did not measure is not in its row, so a table of the rows has a gap there. Read anew on each call.
        """
        rows: dict[int, dict[str, Any]] = {}
        for row in metrics_file.read(self.dir):
            rows.setdefault(row["step"], {}).update(row)
        return [rows[step] for step in sorted(rows)]

    def frame(self) -> Any:
        """`metrics()` as a data frame of pandas, its index the step; or of polars, where pandas is not installed.

        Raises UserError where neither is.
        """
        return frame(self.metrics(), "step")

    def log(self, name: str = "stdout.log") -> str:
        """A log of the newest attempt (stdout.log, stderr.log, attempt.log); empty where there is none yet."""
        tried = runs.attempts(self.dir)
        try:
            return (tried[-1].dir / name).read_text(errors="replace") if tried else ""
        except OSError:
            return ""

    def __repr__(self) -> str:
        return f"<run {self.line.name}/{self.id} {self.line.state} {self.line.step}/{self.line.max_steps or '?'}>"


class Runs(Sequence[Run]):
    """Runs by name and, of one name, as they were launched; `runs["r3f9"]` is one by the first letters of its id."""

    def __init__(self, of_runs: Sequence[Run], slurm_error: str = "") -> None:
        self._runs = tuple(of_runs)
        self.slurm_error = slurm_error

    @overload
    def __getitem__(self, which: int | str) -> Run: ...
    @overload
    def __getitem__(self, which: slice) -> Runs: ...
    def __getitem__(self, which: int | str | slice) -> Run | Runs:
        if isinstance(which, slice):
            return Runs(self._runs[which], self.slurm_error)
        if isinstance(which, int):
            return self._runs[which]
        hits = [run for run in self._runs if run.id == which] or [r for r in self._runs if r.id.startswith(which)]
        if len(hits) != 1:
            raise KeyError(f"{len(hits)} runs begin with {which}")
        return hits[0]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def where(self, *states: str) -> Runs:
        """Those in one of these states. Raises UserError for a state that there is not."""
        folders = {line.dir for line in status.filtered([run.line for run in self], ",".join(states))}
        return Runs([run for run in self if run.line.dir in folders], self.slurm_error)

    def table(self) -> list[dict[str, Any]]:
        """One row a run: its point, also where it was not typed, and then status's columns.

        The point is the values on each axis of the runs of its name, and what was typed that not all runs here have.
        """
        shared = axes.shared([run.line.overrides for run in self])
        rows = []
        for run in self:
            typed = axes.typed(override for override in run.line.overrides if override not in shared)
            fields = {k: v for k, v in vars(run.line).items() if k not in ("overrides", "point", "damaged")}
            rows.append({**typed, **run.line.point, **fields})
        return rows

    def frame(self) -> Any:
        """`table()` as a data frame of pandas or polars. Raises UserError where neither is installed."""
        return frame(self.table())

    def results(self, seeds: str = results_load.SEED) -> Results:
        """These runs as `nano-exp compare` and `report` see them: points with axes, seeds grouped, costs.

        Parameters
        ----------
        seeds: the axis that repeats a point, by its key or its name in a table

        Raises
        ------
        UserError: there is no such axis
        """
        store = self[0].dir.parent.parent if len(self) else Path()
        return results_load.of_lines(store, (), [run.line for run in self], seeds, self.slurm_error)

    def compare(
        self, by: str = "reward", at: str = "steps", seeds: str = results_load.SEED, lowest: bool | None = None
    ) -> Ranking:
        """What `nano-exp compare` prints: `.standings`, the best point first. Raises UserError as that does.

        Parameters
        ----------
        by: reward, validation, loss, ..., or any metric's name
        at: equal steps, tokens, gpu-hours or time; `gpu-hours=50`: at so much a run
        lowest: whether less is better; None: as the metric's name says
        """
        return rank(self.results(seeds), by, at, lowest)

    def __repr__(self) -> str:
        return f"<{len(self)} runs>"


def frame(rows: Sequence[Mapping[str, Any]], index: str | None = None) -> Any:
    """Rows as a data frame of pandas, or else of polars, which has no index.

    Raises
    ------
    UserError: neither is installed
    """
    if find_spec("pandas"):
        import pandas

        made = pandas.DataFrame.from_records(list(rows))
        return made.set_index(index) if index and len(made) else made
    if find_spec("polars"):
        import polars

        return polars.DataFrame(list(rows), infer_schema_length=None, strict=False)
    raise UserError(
        "a data frame without pandas and without polars",
        "neither is installed here; the rows themselves are plain dictionaries: table(), metrics()",
        "pip install pandas",
    )


def load(path: str | PathLike[str] = "results") -> Runs:
    """The runs of a results folder, of one name in it (`results/nano_9b`), or of one run's folder.

    Slurm is asked once, where a state depends on it. Without Slurm such states are `unknown`, and `slurm_error` of what
    is returned says why.

    Raises
    ------
    UserError: no runs there
    """
    location = Path(path).expanduser().resolve()
    results, words = location, []
    if _is_run(location):
        results, words = location.parent.parent, [f"{location.parent.name}/{location.name}"]
    elif location.is_dir() and any(_is_run(child) for child in location.iterdir()):
        results, words = location.parent, [location.name]
    lookup = QueueLookup()
    lines = status.look(Cache(results), words, lookup)
    return Runs([Run(line) for line in lines], lookup.error)


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file() or (folder / "events").is_dir()


__all__ = ["Run", "Runs", "UserError", "frame", "load"]
