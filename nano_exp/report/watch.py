"""`nano-exp watch`: the terminal around screen.py. A thread looks at the store and Slurm; keys act at once."""

from __future__ import annotations

import contextlib
import curses
import io
import locale
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nano_exp import text
from nano_exp.errors import UserError
from nano_exp.index.cache import Cache
from nano_exp.report import logs, status
from nano_exp.report.screen import Screen
from nano_exp.report.spark import ASCII_BARS, BARS, Rewards
from nano_exp.report.status import Line
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup

#: Seconds between two looks at the store, and between two questions to Slurm: its controller serves everybody.
LOOK_S, ASK_S = 2.0, 15.0
#: At most this part of the time is spent looking, however many runs there are.
SHARE = 0.2
#: Milliseconds that a key is waited for before the screen is drawn again.
KEY_MS = 200
ARROWS = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "pageup",
    curses.KEY_NPAGE: "pagedown",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    ord("g"): "home",
    ord("G"): "end",
    ord("\n"): "l",
    27: "q",
}
COLOURS = {
    "running": curses.COLOR_GREEN,
    "pending": curses.COLOR_YELLOW,
    "failed": curses.COLOR_RED,
    "lost": curses.COLOR_RED,
    "damaged": curses.COLOR_RED,
    "unknown": curses.COLOR_MAGENTA,
    "ask": curses.COLOR_YELLOW,
}


def watch(results: Path, words: Sequence[str]) -> int:
    """Show the runs until q. Returns the exit code.

    Raises
    ------
    UserError: no terminal, no runs, or none of that name
    """
    _require_terminal()
    look = Look(results, words)
    look.once()  # what is wrong with the words or the folder is said before the screen is taken
    locale.setlocale(locale.LC_ALL, "")
    os.environ.setdefault("ESCDELAY", "25")  # else the escape key is waited for: an arrow key may begin with it
    try:
        curses.wrapper(Terminal(look).run)
    except KeyboardInterrupt:
        return 0
    finally:
        look.stop()
    return 0


def _require_terminal() -> None:
    problem = "stdin or stdout is not a terminal" if not (sys.stdin.isatty() and sys.stdout.isatty()) else ""
    if not problem:
        try:
            curses.setupterm()
        except curses.error:
            problem = f"TERM={os.environ.get('TERM', '')} is a terminal that cannot be drawn on"
    if problem:
        raise UserError(
            f"nano-exp watch: {problem}",
            "it draws a screen and reads keys",
            "nano-exp status prints the same table once; nano-exp status --json is for scripts",
        )


class Look:
    """The newest lines, looked for again and again by a thread."""

    def __init__(self, results: Path, words: Sequence[str]) -> None:
        self.results, self.words = results, words
        self.cache = Cache(results)
        self.lines: list[Line] = []
        self.error = ""
        self.at = 0.0
        self.lookup = QueueLookup()
        self._asked_at = 0.0
        self._again = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over = True
        self._again.set()

    def soon(self) -> None:
        """Look at once, and ask Slurm: something was done."""
        self._asked_at = 0.0
        self._again.set()

    def once(self) -> float:
        """One look. Returns how long it took, seconds."""
        began = time.monotonic()
        if began - self._asked_at > ASK_S or not self._asked_at:
            self.lookup, self._asked_at = QueueLookup(), began
        self.lines = status.look(self.cache, self.words, self.lookup)
        self.at = time.time()
        return time.monotonic() - began

    def _keep_looking(self) -> None:
        took = 0.0
        while not self._over:
            self._again.wait(max(LOOK_S, took / SHARE))
            self._again.clear()
            if self._over:
                return
            try:
                took, self.error = self.once(), ""
            except UserError as error:  # the folder is gone, or empty by now: it may come back
                self.error = error.found
            except Exception as error:  # shown: a thread that ended silently would leave an old table on the screen
                self.error = f"{type(error).__name__}: {error}"


class Terminal:
    """Draws the screen, reads keys, and does what they ask for."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.rewards: dict[str, Rewards] = {}
        self._drawn: tuple[float, str] | None = None
        title = " ".join(look.words) or text.relative(look.results)
        utf8 = "UTF-8" in locale.nl_langinfo(locale.CODESET).upper()
        self.screen = Screen(title, rewards=self._rewards, bars=BARS if utf8 else ASCII_BARS)

    def _rewards(self, line: Line) -> list[float]:
        known = self.rewards.setdefault(line.dir, Rewards(Path(line.dir) / runs.METRICS))
        return known.read() if line.step else []

    def run(self, window: curses.window) -> None:
        self._prepare(window)
        self.look.start()
        while True:
            if self._stale():
                self._draw(window)
            key = self._key(window)
            if not key:
                continue
            what, line = self.screen.press(key, window.getmaxyx()[0])
            if what == "quit":
                return
            if line is not None:
                self._act(what, line, window)

    def _stale(self) -> bool:
        """Whether what is on the screen is not the newest; nothing is sent to the terminal where it is."""
        return self._drawn != (self.look.at, self.look.error)

    def _prepare(self, window: curses.window) -> None:
        window.timeout(KEY_MS)
        with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
            curses.curs_set(0)
        self.styles: dict[str, int] = {}
        if curses.has_colors() and not os.environ.get("NO_COLOR"):
            curses.use_default_colors()
            for number, (name, colour) in enumerate(COLOURS.items(), start=1):
                curses.init_pair(number, colour, -1)
                self.styles[name] = curses.color_pair(number)
        self.styles |= {"title": curses.A_BOLD, "header": curses.A_UNDERLINE, "dim": curses.A_DIM}

    def _key(self, window: curses.window) -> str:
        code = window.getch()
        if code == -1:
            return ""
        self._drawn = None
        if code == curses.KEY_RESIZE:
            window.clearok(True)  # all of it anew: a terminal that was narrower for a moment has lost what it showed
            return ""
        if code in ARROWS:
            return ARROWS[code]
        return chr(code) if 32 <= code < 127 else ""

    def _draw(self, window: curses.window) -> None:
        self._drawn = self.look.at, self.look.error
        screen = self.screen
        screen.every_line, screen.looked, screen.slurm_error = self.look.lines, self.look.at, self.look.lookup.error
        if self.look.error:
            screen.message = self.look.error
        height, width = window.getmaxyx()
        window.erase()
        for y, (line, style) in enumerate(screen.draw(height, width)):
            whole = line.ljust(width) if style.startswith("selected") else line
            # The last cell of the last row cannot be written without scrolling: curses calls that an error.
            with contextlib.suppress(curses.error):
                window.addnstr(y, 0, whole, width, self._attribute(style))
        window.refresh()

    def _attribute(self, style: str) -> int:
        chosen = style.startswith("selected ")
        return self.styles.get(style.removeprefix("selected "), 0) | (curses.A_REVERSE if chosen else 0)

    # --- what keys ask for ------------------------------------------------------------------------------------------

    def _act(self, what: str, line: Line, window: curses.window) -> None:
        if what == "log":
            self._follow(line, window)
        elif what in ("cancel", "retry"):
            self.screen.message = f"{what}: {line.run} ..."
            self._draw(window)
            self.screen.message = self._do(what, line)
            self.look.soon()

    def _follow(self, line: Line, window: curses.window) -> None:
        """Leave the screen, print the log as `nano-exp logs -f` does, and come back with Ctrl-C or at its end."""
        curses.def_prog_mode()
        curses.endwin()
        print(f"\n--- {line.name}/{line.run}: Ctrl-C goes back to the table")
        try:
            logs.follow(runs.load(Path(line.dir)), logs.STREAMS["out"], sys.stdout, lambda: not self._active(line.dir))
            print("--- Enter goes back to the table", end="", flush=True)
            sys.stdin.readline()
        except KeyboardInterrupt:
            print()
        except OSError as error:
            self.screen.message = f"{line.run}: {error}"
        curses.reset_prog_mode()
        window.clear()

    def _active(self, folder: str) -> bool:
        return any(line.dir == folder and line.state in (*state.ACTIVE, "unknown") for line in self.look.lines)

    def _do(self, what: str, line: Line) -> str:
        """Cancel or retry, with what it prints kept off the screen. Returns one line on how it went."""
        from nano_exp.launch import cancel, retry

        run = runs.load(Path(line.dir))
        sent = state.submission(run)
        if what == "retry" and sent is not None and sent.local is not None:
            return f"it ran on this machine, and would run here now: nano-exp retry {line.name}/{line.run} in a shell"
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                if what == "cancel":
                    cancel.cancel([run], True, lambda question: True)
                else:
                    retry.retry(run.results, [run], [])
        except UserError as error:
            return f"{error.found} - {error.fix}"
        except (OSError, ValueError, KeyError) as error:
            return f"{what}: {type(error).__name__}: {error}"
        done = [line_printed.strip() for line_printed in printed.getvalue().splitlines() if line_printed.strip()]
        if what == "cancel":
            return done[-1] if done else "nothing to cancel"
        return next(
            (line_printed for line_printed in done if line_printed.startswith("retry: 0")),
            f"{line.run} is submitted again",
        )
