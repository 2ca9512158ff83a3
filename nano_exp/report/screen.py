"""What `nano-exp watch` shows and what its keys do: pure, from lines and keys to text. watch.py has the terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nano_exp import text
from nano_exp.report import spark, status
from nano_exp.report.spark import BARS
from nano_exp.report.status import Line
from nano_exp.report.table import hours, number, title
from nano_exp.store import axes
from nano_exp.terminal import grid

#: Key -> what it does, in the order of the bottom line.
KEYS = {
    "q": "quit",
    "l": "log",
    "c": "cancel",
    "r": "retry",
    "s": "sort",
    "a": "active only",
}
ORDERS = ("name", "state", "reward", "step", "age")
#: Widths in characters: of the words, and of a sparkline that other columns make room for; what it is at least and at
#: most where they leave another one.
WORDS, SPARK, LEAST_SPARK, MOST_SPARK = 12, 10, 4, 24


@dataclass
class Screen:
    """The state of the display.

    Parameters
    ----------
    every_line: the newest lines, of all runs that are watched
    selected: the run's folder under the cursor
    first: the first row that is visible
    asking: what is asked about, the question that the next key answers with y or anything else, and the run
    message: shown until the next key
    rewards: a run's rewards so far
    bars: what sparklines are made of, lowest first
    """

    title: str
    every_line: list[Line] = field(default_factory=list)
    order: str = ORDERS[0]
    active_only: bool = False
    selected: str = ""
    first: int = 0
    asking: tuple[str, str, Line] | None = None
    message: str = ""
    slurm_error: str = ""
    looked: float = 0.0
    rewards: Callable[[Line], Sequence[float]] = lambda line: ()
    bars: str = BARS
    _lines: tuple[list[Line] | None, tuple[bool, str], list[Line]] = (None, (False, ""), [])

    @property
    def lines(self) -> list[Line]:
        """The lines that are shown, in their order; worked out once for each look, filter and order."""
        of, how, shown = self._lines
        if of is not self.every_line or how != (self.active_only, self.order):
            lines = status.filtered(self.every_line, "active") if self.active_only else self.every_line
            shown = status.ordered(lines, self.order)
            self._lines = self.every_line, (self.active_only, self.order), shown
        return shown

    @property
    def line(self) -> Line | None:
        """The line under the cursor."""
        shown = self.lines
        return next((line for line in shown if line.dir == self.selected), shown[0] if shown else None)

    # --- keys -------------------------------------------------------------------------------------------------------

    def press(self, key: str, height: int) -> tuple[str, Line | None]:
        """One key. Returns what the terminal has to do, and with which run: quit, log, cancel, retry, or "".

        Parameters
        ----------
        key: a letter, or up, down, pageup, pagedown, home, end
        """
        self.message = ""
        if self.asking is not None:  # about that run, even if the cursor is on another one by now
            (what, _, line), self.asking = self.asking, None
            if key == "y":
                return what, line
            self.message = f"{line.run}: no {what}"
            return "", None
        page = max(1, room(height))
        far = len(self.every_line)
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "pagedown": page, "home": -far, "end": far}
        if key in moves:
            self._move(moves[key])
        elif key == "s":
            self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
            self.message = f"sorted by {self.order}"
        elif key == "a":
            self.active_only = not self.active_only
        elif key in ("c", "r") and self.line is not None:
            self._ask("cancel" if key == "c" else "retry", self.line)
        elif key in ("q", "l"):
            return KEYS[key], self.line
        return "", None

    def _move(self, by: int) -> None:
        shown = self.lines
        if shown:
            here = next((i for i, line in enumerate(shown) if line.dir == self.selected), 0)
            self.selected = shown[min(len(shown) - 1, max(0, here + by))].dir

    def _ask(self, what: str, line: Line) -> None:
        active = line.state in ("pending", "running")
        if what == "cancel" and not active:
            self.message = f"{line.run} is {line.state}: there is nothing to cancel"
        elif what == "retry" and (active or line.state == "done"):
            self.message = f"{line.run} is {line.state}: there is nothing to try again"
        else:
            job = f", job {line.job}" if line.job else ""
            self.asking = what, f"{what} {line.run} ({line.state}{job})?  y/n", line

    # --- drawing ----------------------------------------------------------------------------------------------------

    def draw(self, height: int, width: int) -> list[tuple[str, str]]:
        """The whole screen: `height` rows of (text, style), none wider than `width`.

        A style is a state's name, selected+state, title, header, dim, ask or "".
        """
        shown = self.lines
        here = next((i for i, line in enumerate(shown) if line.dir == self.selected), 0)
        rows = room(height)
        header, cells = self._table(self._visible(here, rows), width)
        if (extra := len(header) - 1) and rows > extra:
            rows -= extra
            header, cells = self._table(self._visible(here, rows), width)
        visible = self._visible(here, rows)
        drawn = [(self._title(width), "title"), *((words, "header") for words in header)]
        for i, (line, cell) in enumerate(zip(visible, cells, strict=True)):
            drawn.append((cell, ("selected " if self.first + i == here else "") + line.state))
        if not shown:
            drawn.append(("nothing is pending or running (a shows all)" if self.active_only else "no runs", "dim"))
        bottom = self._bottom(shown, here)[-max(1, height - 1 - len(header) - rows) :]
        drawn += [("", "")] * (height - len(bottom) - len(drawn))
        drawn = drawn[: max(0, height - len(bottom))] + bottom
        return [(text.shortened(words, width), style) for words, style in drawn[:height]]

    def _visible(self, here: int, rows: int) -> list[Line]:
        """The rows around the cursor, as few moved as it takes."""
        shown = self.lines
        self.first = min(max(self.first, here - rows + 1), here, max(0, len(shown) - rows))
        return shown[self.first : self.first + rows]

    def _title(self, width: int) -> str:
        counts = Counter(line.state for line in self.every_line)
        stalled = sum(line.stalled_s is not None for line in self.every_line)
        parts = [f"{n} {state}" for state, n in counts.most_common()] + ([f"{stalled} stalled"] if stalled else [])
        clock = time.strftime("%H:%M:%S", time.localtime(self.looked)) if self.looked else ""
        left = f"{', '.join(parts)}  {self.title}"
        return left.ljust(width - len(clock)) + clock if len(left) + len(clock) < width else left

    def _bottom(self, shown: Sequence[Line], here: int) -> list[tuple[str, str]]:
        """Three lines on the run under the cursor, and one of keys, a question or what was done."""
        what = why = following = ""
        if shown:
            line = shown[here]
            what = f"{line.name}/{line.run}  {self._point(line)}"
            why = f"  {line.run}: {line.state}" + (f", {line.why}" if line.why else "")
            following = "; ".join(p for p in (line.next, f"job {line.job}" if line.job else "", *line.damaged) if p)
        if self.asking is not None:
            last = (self.asking[1], "ask")
        elif self.message:
            last = (self.message, "ask")
        elif self.slurm_error:
            last = (f"Slurm does not answer: {self.slurm_error}", "ask")
        else:
            position = f"{here + 1}/{len(shown)}  " if shown else ""
            last = (position + "  ".join(f"{key} {what}" for key, what in KEYS.items()), "dim")
        return [(what, "dim"), (why, "dim"), (f"  {following}" if following else "", "dim"), last]

    def _point(self, line: Line) -> str:
        names = axes.names(list(line.point))
        return " ".join(f"{names[key]}={axes.as_typed(one)}" for key, one in line.point.items()) or title(line)

    def _table(self, visible: Sequence[Line], width: int) -> tuple[list[str], list[str]]:
        """The lines of the header, and one for each run: a column for each axis, and the rewards on one scale."""
        columns = {
            "name": [line.name for line in visible],
            "run": [line.run for line in visible],
            "state": ["stalled" if line.stalled_s is not None else line.state for line in visible],
            "step": [f"{line.step}/{line.max_steps if line.max_steps is not None else '?'}" for line in visible],
            "reward": [number(line.reward) for line in visible],
            "valid.": [number(line.validation_accuracy) for line in visible],
            "GPU-h": [hours(line.gpu_hours) for line in visible],
            "age": [_age(line.age_s) for line in visible],
        }
        titles = [title(line) for line in visible]
        words = WORDS + 2 if any(titles) else 0
        one_name = len({line.name for line in self.every_line}) == 1
        give_up = (*(("name",) if one_name else ()), "age", "GPU-h", "valid.", "name")
        table = grid.grid(
            columns,
            [line.point for line in visible],
            width - words - SPARK - 2,
            give_up,
            before="reward",
            below=False,
        )
        left = width - text.width(table.header[-1]) - 2
        bars = min(MOST_SPARK, left - words if words else left)
        if bars < LEAST_SPARK:
            return table.header, [f"{row[0]}  {words}" for row, words in zip(table.rows, titles, strict=True)]
        lines = spark.sparks([self.rewards(line) for line in visible], bars, self.bars)
        scale = f"rewards {lines.low:.2g} to {lines.high:.2g}" if any(lines.lines) else "rewards"
        cells = [
            f"{row[0]}  {text.padded(drawn, bars)}  {words}"
            for row, drawn, words in zip(table.rows, lines.lines, titles, strict=True)
        ]
        return [*table.header[:-1], f"{table.header[-1]}  {scale}"], cells


def _age(seconds: float | None) -> str:
    """Its greatest unit only: the screen is narrow."""
    return "-" if seconds is None else " ".join(text.duration(seconds).split(" ")[:2])


def room(height: int) -> int:
    """How many runs are visible on so many rows: all but the title, the header and the lines at the bottom."""
    return max(0, height - (6 if height >= 16 else 5 if height >= 9 else 3))
