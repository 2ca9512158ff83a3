"""Drawing a search's points: what Optuna suggests, until it is one that has no run and that nothing refuses."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader

from nano_exp.advice import mistakes
from nano_exp.compose.compose import Point
from nano_exp.compose.freeze import Frozen, freeze
from nano_exp.compose.sweep import Sweep
from nano_exp.errors import UserError
from nano_exp.launch import flow, search_show, search_space
from nano_exp.launch.search_space import FAIL, Space, Told
from nano_exp.launch.search_trials import Trial
from nano_exp.planner import auto
from nano_exp.terminal import progress_line

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


@dataclass(frozen=True)
class Drawn:
    """A point to launch.

    Parameters
    ----------
    params: its values on the searched axes
    attrs: what the sampler noted when it drew them
    """

    point: Point
    params: dict[str, Any]
    attrs: dict[str, Any]


@dataclass
class Drawer:
    """Asks Optuna.

    Parameters
    ----------
    dropped: points that were drawn and got no run: refused, or drawn before
    """

    place: Place
    wanted: Wanted
    live: progress_line.Live
    dropped: list[Told] = field(default_factory=list)
    _printed: set[str] = field(default_factory=set)

    def study(self, trials: Sequence[Trial]) -> Any:
        """Optuna's study as the store has it now."""
        told = [trial.told for trial in trials if trial.told is not None]
        wanted = self.wanted
        return search_space.study(wanted.sampler, wanted.direction, wanted.space, [*told, *self.dropped])

    def draw(self, trials: Sequence[Trial]) -> Drawn | None:
        """A point that has no run and that nothing refuses; None where none comes.

        Raises
        ------
        UserError: none of the first points can be launched: it is the command that is wrong
        """
        space = self.wanted.space
        known = [trial.params for trial in trials]
        refused: list[UserError] = []
        for _ in range(max(PATIENCE, space.size or 0)):
            params, attrs = search_space.ask(self.study(trials), space)
            if params in known:
                self.drop(params, attrs)
                continue
            try:
                point, frozen = self.place.compose(space.words(params))
                broken = next((c for c in self.wanted.settings.constraints if not c.holds(frozen.config)), None)
                if broken is None:
                    with self.heard(say=bool(trials)):
                        flow.check([frozen], self.place.parameters, submitting=False, inside=True)
                    return Drawn(point, params, attrs)
                self.drop(params, attrs, f"skipped: without {broken.require} ({broken.because})")
            except UserError as error:
                refused.append(error)
                if not trials and len(refused) >= self.wanted.n_jobs:
                    raise refused[0] from None
                self.drop(params, attrs, f"refused: {error.found}: {error.why}")
            known.append(params)
        if refused and not trials:
            raise refused[0]
        return None

    def drop(self, params: dict[str, Any], attrs: dict[str, Any], why: str = "") -> None:
        """Optuna is told that a point failed, and draws another."""
        self.dropped.append(Told(params, FAIL, attrs=attrs))
        if why:
            self.live.say(f"{search_show.point(params)}: {why}")

    @contextlib.contextmanager
    def heard(self, say: bool) -> Iterator[None]:
        """Keep what is printed back, but for warnings that were not there before."""
        err = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
                yield
        finally:
            for text in err.getvalue().splitlines():
                if say and text not in self._printed:
                    self.live.say(text)
                self._printed.add(text)


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
