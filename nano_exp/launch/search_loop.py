"""hydra/sweeper=optuna: the next point is asked for as soon as one of its runs ends, pauses or fails.

What a trial has come to is read from the store each time (`search_trials`), and Optuna's study is made from that
(`search_space`). So the search may be killed at any moment: the same command finds its runs, waits for those that are
under way, sends what was not sent, and asks for the rest. Who goes on from a rung, the attempts decide as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader

from nano_exp import files
from nano_exp.advice import mistakes
from nano_exp.compose.compose import Point
from nano_exp.compose.freeze import Frozen, freeze
from nano_exp.compose.sweep import Sweep
from nano_exp.errors import UserError
from nano_exp.index import progress
from nano_exp.launch import flow, search_show, search_space, study_terms, terms
from nano_exp.launch.search_here import Here
from nano_exp.launch.search_space import COMPLETE, FAIL, Space, Told
from nano_exp.launch.search_trials import UNDER_WAY, Trial, stored
from nano_exp.planner import auto
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.study import book, halving
from nano_exp.terminal import progress_line

#: Seconds between two looks at the store, on this machine and with Slurm.
HERE_S, SLURM_S = 1.0, 5.0
#: So many draws in a row that gave no new point end the asking.
PATIENCE = 100


@dataclass(frozen=True)
class Wanted:
    """What is searched, and how.

    Parameters
    ----------
    space: the searched axes
    sampler: Optuna's
    direction: maximize or minimize
    n_trials: as many runs in all
    n_jobs: as many at once
    settings: the `sweep` section: metric and constraints
    """

    space: Space
    sampler: Any
    direction: str
    n_trials: int
    n_jobs: int
    settings: Sweep


@dataclass(frozen=True)
class Place:
    """How a search launches.

    Parameters
    ----------
    take: `flow.launch`
    parameters: hydra.launcher's
    folder: the launch folder
    """

    take: Callable[..., flow.Launched]
    loader: ConfigLoader
    parameters: dict[str, Any]
    folder: Path

    def compose(self, words: Sequence[str]) -> tuple[Point, Frozen]:
        """Raises UserError."""
        with mistakes.explained(self.loader):
            point = auto.compose_point(self.loader, words)
        return point, freeze(point, self.folder)


@dataclass
class Search:
    """A search under way.

    Parameters
    ----------
    first: a point of it, for what all of its points have in common
    dropped: points that were drawn and got no run: refused, or drawn before
    """

    place: Place
    wanted: Wanted
    first: Frozen
    trials: list[Trial] = field(default_factory=list)
    dropped: list[Told] = field(default_factory=list)
    live: progress_line.Live = field(default_factory=lambda: progress_line.Live(every_s=60.0))

    def __post_init__(self) -> None:
        config = self.first.config
        self.results, self.name = Path(config["run"]["results"]), self.first.name
        self.here = Here() if config["slurm"]["where"] == "local" else None
        self.terms = terms.read([self.first])
        self.rules = halving.of(self.terms.halving)
        self.most_steps = int(config["grpo"]["max_num_steps"])
        self._drawn: tuple[Point, dict[str, Any], dict[str, Any]] | None = None
        self._exhausted = self._is_closed = False
        self._printed: set[str] = set()
        self._launches = 0

    def run(self) -> int:
        """Until every trial has come to its end.

        Returns
        -------
        0; 1 where a run failed; 130 after Ctrl-C

        Raises
        ------
        UserError: no point of the search can be launched, or Slurm refuses one
        """
        with _only_one(self.results, self.name):
            self.trials = stored(self.place.loader, self.place.folder, self.results, self.name, self.wanted.space)
            self._settle(more_to_come=not self._is_full())
            self._look(quiet=True)
            print(search_show.beginning(self.name, self.trials, self.wanted.n_trials))
            try:
                while self._go_on():
                    self._show()
                    time.sleep(HERE_S if self.here else SLURM_S)
                    self._look()
            except KeyboardInterrupt:
                return self._interrupted()
            except UserError:
                self.live.clear()
                if self.trials:
                    print(search_show.left(self.name, self.trials, self.wanted.n_trials), file=sys.stderr)
                raise
            self.live.clear()
        return 1 if any(trial.told and trial.told.state == FAIL for trial in self.trials) else 0

    def study(self) -> Any:
        """Optuna's study as the store has it now."""
        told = [trial.told for trial in self.trials if trial.told is not None]
        wanted = self.wanted
        return search_space.study(wanted.sampler, wanted.direction, wanted.space, [*told, *self.dropped])

    def _is_full(self) -> bool:
        size = self.wanted.space.size
        most = self.wanted.n_trials if size is None else min(size, self.wanted.n_trials)
        return self._exhausted or len(self.trials) >= most

    def _look(self, quiet: bool = False) -> None:
        """Read every trial's run again, and say what has changed."""
        lookup = QueueLookup()
        for number, trial in enumerate(self.trials, 1):
            if trial.told is not None and trial.now.kind == "done":
                continue
            if self.here and not trial.broken:
                trial.broken = self.here.never_started(trial.dir)
            if trial.look(lookup, self.rules, self.wanted.settings.metric) and not quiet:
                self.live.say(search_show.line(number, trial, self.wanted.settings.metric))

    def _occupies(self, trial: Trial) -> bool:
        """Whether a run takes one of the n_jobs places."""
        if self.here and self.here.has(trial.dir):
            return True
        return trial.now.kind in UNDER_WAY and not self._is_awaited(trial)

    def _is_awaited(self, trial: Trial) -> bool:
        """Whether a run of this machine is to be started by this search."""
        return bool(self.here and not trial.broken and trial.now.kind == "pending" and self.here.is_awaited(trial.dir))

    def _go_on(self) -> bool:
        """Fill the free places. False where nothing is left to do or to wait for."""
        while True:
            occupied = sum(map(self._occupies, self.trials))
            try:
                if occupied < self.wanted.n_jobs and self._start_one(occupied):
                    continue
            except UserError as error:
                if error.code != 4:
                    raise
                self.live.say(f"{error.found}: asked again")  # Slurm does not answer
                return True
            if self._is_full() and not self._is_closed:
                self._is_closed = True
                if self._settle(more_to_come=False):
                    self._look()
                    continue
            if occupied or self._drawn:
                return True
            if not self._settle(more_to_come=False):
                return False
            self._look()

    def _start_one(self, occupied: int) -> bool:
        """Start what waits for a place, and else a new point. Returns whether there was one."""
        for trial in self.trials:
            if self._is_awaited(trial):
                assert self.here is not None
                self.here.start(trial.dir)
                return True
        for trial in self.trials:
            if self._is_to_send(trial, occupied):
                trial.sent_after = trial.now.attempt
                point, _ = self.place.compose(self.wanted.space.words(trial.params))
                self._launch(point)
                trial.before = False
                trial.look(QueueLookup(), self.rules, self.wanted.settings.metric)
                return True
        return not self._is_full() and self._ask()

    def _is_to_send(self, trial: Trial, occupied: int) -> bool:
        """Of an earlier command what ended before its time; of this one what goes on and has no job. While others are
        under way, their attempts see to that."""
        if trial.sent_after == trial.now.attempt or trial.broken:
            return False
        if trial.goes_on:
            return trial.now.kind == "unstarted" and (trial.before or not occupied)
        return trial.before and trial.now.kind in ("stopped", "lost", "unstarted", "frozen", "refused", "budget")

    def _ask(self) -> bool:
        """Launch a new point. Returns whether there was one."""
        self._drawn = self._drawn or self._draw()
        if self._drawn is None:
            self._exhausted = True
            return False
        point, params, attrs = self._drawn
        row = self._launch(point)
        self._drawn = None
        if not row.submit or any(trial.dir == row.dir for trial in self.trials):
            why = f"{row.state.kind} {row.state.why}".strip()
            self._drop(params, attrs, f"{row.id} is {why}; it is not launched")
            return True
        trial = Trial(row.dir, params, attrs)
        self.trials.append(trial)
        trial.look(QueueLookup(), self.rules, self.wanted.settings.metric)
        self.live.say(search_show.line(len(self.trials), trial, self.wanted.settings.metric))
        return True

    def _draw(self) -> tuple[Point, dict[str, Any], dict[str, Any]] | None:
        """A point that has no run and that nothing refuses; None where none comes.

        Raises
        ------
        UserError: none of the first points can be launched: it is the command that is wrong
        """
        space = self.wanted.space
        known = [trial.params for trial in self.trials]
        refused: list[UserError] = []
        for _ in range(max(PATIENCE, space.size or 0)):
            params, attrs = search_space.ask(self.study(), space)
            if params in known:
                self._drop(params, attrs)
                continue
            try:
                point, frozen = self.place.compose(space.words(params))
                broken = next((c for c in self.wanted.settings.constraints if not c.holds(frozen.config)), None)
                if broken is None:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        flow.check([frozen], self.place.parameters, submitting=False, inside=True)
                    return point, params, attrs
                self._drop(params, attrs, f"skipped: without {broken.require} ({broken.because})")
            except UserError as error:
                refused.append(error)
                if not self.trials and len(refused) >= self.wanted.n_jobs:
                    raise refused[0] from None
                self._drop(params, attrs, f"refused: {error.found}: {error.why}")
            known.append(params)
        if refused and not self.trials:
            raise refused[0]
        return None

    def _drop(self, params: dict[str, Any], attrs: dict[str, Any], why: str = "") -> None:
        """Optuna is told that a point failed, and draws another."""
        self.dropped.append(Told(params, FAIL, attrs=attrs))
        if why:
            self.live.say(f"{search_show.point(params)}: {why}")

    def _launch(self, point: Point) -> Any:
        """Launch one point; the first time with all that a launch says, later without what it said before."""
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.ExitStack() as quiet:
                if self._launches:
                    quiet.enter_context(contextlib.redirect_stdout(out))
                    quiet.enter_context(contextlib.redirect_stderr(err))
                launched = self.place.take([point], self.place.parameters, self.place.folder, (), True)
        finally:
            for text in err.getvalue().splitlines():
                if self._launches > 1 and text not in self._printed:
                    self.live.say(text)
                self._printed.add(text)
        sys.stdout.flush()
        self._launches += 1
        row = launched.plan.rows[0]
        if self.here and launched.ready is not None:
            self.here.start(row.dir)
        return row

    def _settle(self, more_to_come: bool) -> bool:
        """Say whether points are to come, and have those go on that now may. Returns whether there were some."""
        return bool(study_terms.settle(self.results, [self.name], self.terms, more_to_come)) if self.rules else False

    def _show(self) -> None:
        under_way = [trial for trial in self.trials if self._occupies(trial)]
        samples = [(trial.id, progress.sample(trial.dir), self.most_steps) for trial in under_way]
        if samples:
            self.live.show(progress_line.many(samples, len(self.trials) - len(samples), self.wanted.n_trials))

    def _interrupted(self) -> int:
        if self.here:
            self.live.say("Ctrl-C: ending at the current step; the last checkpoint stays (Ctrl-C again to kill)")
            self.here.end(self.live)
            self._look(quiet=True)
        else:
            self.live.say("Ctrl-C: no longer waiting; the jobs go on")
        print(search_show.left(self.name, self.trials, self.wanted.n_trials), file=sys.stderr)
        return 130


@contextlib.contextmanager
def _only_one(results: Path, name: str) -> Iterator[None]:
    """One search of a name at a time. The kernel frees the lock when its process dies. Raises UserError."""
    files.make_dir(results / book.FOLDER)
    with (results / book.FOLDER / f"{name}.search").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"a search of {name} is under way",
                "two would ask for points of their own, and launch more than n_trials",
                "wait for it, or end it with Ctrl-C where it was typed; run.name=ANOTHER is a search of its own",
            ) from None
        except OSError as error:
            print(f"warning: {results} has no file locks ({error.strerror}); do not search twice", file=sys.stderr)
        yield


def first_point(place: Place, space: Space) -> Frozen:
    """One point of a search, for what all of them have in common. Raises UserError where none composes."""
    problem: UserError | None = None
    for params in space.corners():
        try:
            return place.compose(space.words(params))[1]
        except UserError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def search(place: Place, wanted: Wanted, first: Frozen, folder: Callable[[], Path]) -> int:
    """Search, and say what was found.

    Parameters
    ----------
    first: one of the points
    folder: gets the best point's file, where there is one

    Returns
    -------
    as `Search.run`

    Raises
    ------
    UserError: as `Search.run`; no trial came to a value
    """
    made = Search(place, wanted, first)
    code = made.run()
    if code != 130:
        metric = wanted.settings.metric
        if not any(trial.told and trial.told.state == COMPLETE for trial in made.trials):
            raise search_show.nothing(made.trials, metric)
        print(search_show.end(made.name, made.trials, made.study().best_trial, metric, folder()))
    return code
