"""hydra/sweeper=optuna: the next point is asked for as soon as one of its runs ends, pauses or fails.

What a trial has come to is read from the store each time (`search_trials`), and Optuna's study is made from that
(`search_space`). So the search may be killed at any moment: the same command finds its runs, waits for those that are
under way, sends what was not sent, and asks for the rest. Who goes on from a rung, the attempts decide as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nano_exp import files
from nano_exp.compose.compose import Point
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.index import progress
from nano_exp.launch import convergence, large, search_show, study_terms, terms
from nano_exp.launch.search_draw import Drawer, Drawn, Place, Wanted
from nano_exp.launch.search_here import Here
from nano_exp.launch.search_space import COMPLETE, FAIL
from nano_exp.launch.search_trials import UNDER_WAY, Trial, stored
from nano_exp.preflight.cost import cost
from nano_exp.store import runs
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.study import book, halving
from nano_exp.terminal import progress_line

#: Seconds between two looks at the store, on this machine and with Slurm.
HERE_S, SLURM_S = 1.0, 5.0


@dataclass
class Search:
    """A search under way.

    Parameters
    ----------
    first: a point of it, for what all of its points have in common
    """

    place: Place
    wanted: Wanted
    first: Frozen
    trials: list[Trial] = field(default_factory=list)
    live: progress_line.Live = field(default_factory=lambda: progress_line.Live(every_s=60.0))

    def __post_init__(self) -> None:
        config = self.first.config
        self.results, self.name = Path(config["run"]["results"]), self.first.name
        self.here = Here() if config["slurm"]["where"] == "local" else None
        self.terms = terms.read([self.first])
        self.rules = halving.of(self.terms.halving)
        self.most_steps = int(config["grpo"]["max_num_steps"])
        self._drawn: Drawn | None = None
        self.drawer = Drawer(self.place, self.wanted, self.live)
        self._exhausted = self._is_closed = False
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
            self._look(quiet=True)
            print(search_show.beginning(self.name, self.trials, self.wanted.n_trials))
            self._agree()
            if self.trials and not self._is_full():
                self._settle(more_to_come=True)
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

    def _is_full(self) -> bool:
        size = self.wanted.space.size
        most = self.wanted.n_trials if size is None else min(size, self.wanted.n_trials)
        return self._exhausted or len(self.trials) >= most

    def _agree(self) -> None:
        """Ask about a large search as a whole. Raises UserError: no yes."""
        more = self.wanted.n_trials - len(self.trials)
        hours = cost([self.first.config] * max(0, more), self.place.parameters).gpu_hours
        if large.is_large(more, hours) and self.first.config["yes"] is not True:
            large.ask(f"{more:,} runs" + (f" of {hours:,.0f} GPU-hours in one allocation each" if hours else ""))

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
        for number, trial in enumerate(self.trials, 1):
            if self._is_to_send(trial, occupied):
                trial.sent_after = trial.now.attempt
                point, _ = self.place.compose(self.wanted.space.words(trial.params))
                self._launch(point)
                trial.before = False
                self._look_at(trial, number)
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
        self._drawn = self._drawn or self.drawer.draw(self.trials)
        if self._drawn is None:
            self._exhausted = True
            return False
        drawn = self._drawn
        if not self.trials:
            self._settle(more_to_come=True)
        row = self._launch(drawn.point)
        self._drawn = None
        if not row.submit or any(trial.dir == row.dir for trial in self.trials):
            why = f"{row.state.kind} {row.state.why}".strip()
            self.drawer.drop(drawn.params, drawn.attrs, f"{row.id} is {why}; it is not launched")
            return True
        trial = Trial(row.dir, drawn.params, drawn.attrs)
        self.trials.append(trial)
        self._look_at(trial, len(self.trials))
        return True

    def _look_at(self, trial: Trial, number: int) -> None:
        """Read the run of a trial that was just sent, and say what it is."""
        trial.look(QueueLookup(), self.rules, self.wanted.settings.metric)
        self.live.say(search_show.line(number, trial, self.wanted.settings.metric))

    def _launch(self, point: Point) -> convergence.Row:
        """Launch one point; the first time with all that a launch says, later without what it said before."""
        with self.drawer.heard(say=True) if self._launches else contextlib.nullcontext():
            launched = self.place.take([point], self.place.parameters, self.place.folder, (), True)
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
        try:
            yield
        finally:
            if not (results / name).is_dir():  # nothing was launched: nothing is left behind
                Path(file.name).unlink(missing_ok=True)
                runs.remove_empty(results / book.FOLDER, results)


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
        print(
            search_show.end(
                made.name, made.trials, wanted.n_trials, made.drawer.study(made.trials).best_trial, metric, folder()
            )
        )
    return code
