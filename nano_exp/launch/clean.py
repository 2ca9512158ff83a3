"""Give back the disk that runs take and need no more: shown, asked about, set aside under the lock, then removed."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from nano_exp import text
from nano_exp.errors import UserError, choice, nearest
from nano_exp.index import selection
from nano_exp.launch import convergence, freeable, needed, submit
from nano_exp.launch.freeable import Freeable, Item
from nano_exp.store import runs, state
from nano_exp.store.runs import Run
from nano_exp.store.state import State
from nano_exp.terminal import progress_line

#: A run that vanished may still execute on a node that Slurm lost: what changed so lately is not taken for torn.
QUIET_S = 600.0
#: Whose runs nothing is taken from, with what is said of them.
_LEFT = {
    **dict.fromkeys(state.ACTIVE, "nano-exp cancel ends it"),
    "unknown": "it may be active",
    "damaged": "what it is cannot be told",
}


def keep_words(given: str) -> frozenset[str]:
    """`best,last` as typed after --keep. Raises UserError."""
    words = [word.strip().lower() for word in given.split(",")]
    known = (freeable.BEST, freeable.LAST, freeable.ALL)
    for word in words:
        step = word.removeprefix("step_").isdecimal()
        if word not in known and not step:
            raise UserError(
                f"--keep {given}",
                "it takes best, last, all, and numbers of steps, with commas; the last whole checkpoint always stays",
                choice("--keep ", nearest(word, known), ("best,last", "last", "all", "40,last")),
            )
    return frozenset(word.removeprefix("step_") for word in words)


def clean(
    results: Path,
    found: Sequence[Run],
    keep: Collection[str],
    logs: bool,
    yes: bool,
    as_json: bool,
    confirm: Callable[[str], bool],
) -> int:
    """Show what runs have to free, and free it after a yes. Runs that are active, or may be, are left alone.

    Parameters
    ----------
    keep: which whole checkpoints stay beside the last one: best, all, or numbers of steps
    logs: whether logged rollouts go too
    yes: do not ask
    as_json: say it for scripts; nothing is freed without `yes` then
    confirm: asks the user a question; False where there is nobody to ask

    Raises
    ------
    UserError: all of them are active, or may be; no yes; a step that no run has
    """
    with progress_line.waiting("looking at checkpoints ..."):
        looked, left = _look(found, keep, logs)
    _require_steps(looked, keep)
    if not looked:
        raise _all_left(left)
    wanted = [one for one in looked if one.items]
    if not as_json:
        _show(wanted, looked, left)
    if wanted and not as_json and not yes and not confirm(f"free {_sum(wanted)}, for good?"):
        raise UserError(
            f"freeing {_sum(wanted)} was not confirmed",
            "what is removed cannot be brought back",
            "the same command with --yes",
        )
    freed = _Freed()
    if wanted and (yes or not as_json):
        try:
            _free(results, wanted, freed)
        finally:
            if not as_json:
                print(freed.said())
    for problem in freed.problems:
        print(f"  {problem}", file=sys.stderr)
    if as_json:
        print(_as_json(looked, left, freed))
    return 1 if freed.problems else 0


def _look(found: Sequence[Run], keep: Collection[str], logs: bool) -> tuple[list[Freeable], list[tuple[Run, State]]]:
    """What runs have to free, and those that are left alone."""
    asked = convergence.QueueLookup()
    asked.include(found)
    looked, left = [], []
    needs = needed.needs(found[0].results) if found else []
    for run in found:
        now = asked.state(run)
        if now.kind in _LEFT:
            left.append((run, now))
            continue
        one = freeable.of_run(run, keep, logs, needs)
        if now.kind == "lost" and any(_fresh(item) for item in one.items):
            one.items = [item for item in one.items if not _fresh(item)]
            one.notes.append("it vanished, and a save changed a moment ago: a node that Slurm lost may still write it")
        looked.append(one)
    return looked, left


def _fresh(item: Item) -> bool:
    return item.kind == freeable.TORN and time.time() - item.changed < QUIET_S


def _require_steps(looked: Sequence[Freeable], keep: Collection[str]) -> None:
    there = {freeable.step_of(item) for one in looked for item in one.items if _whole(item)}
    there |= {step for one in looked for step in one.kept}
    for word in sorted(keep):
        if word.isdecimal() and int(word) not in there and there:
            listed = ", ".join(str(step) for step in sorted(there)[:12]) + (", ..." if len(there) > 12 else "")
            raise UserError(
                f"--keep {word}", f"there is no checkpoint of step {word}; there are: {listed}", f"--keep {max(there)}"
            )


def _whole(item: Item) -> bool:
    return item.kind == freeable.CHECKPOINT


def _all_left(left: Sequence[tuple[Run, State]]) -> UserError:
    kinds = {now.kind for _, now in left}
    words = " ".join(selection.word(run) for run, _ in left[:6])
    if kinds & set(state.ACTIVE):
        why, fix = "an active run writes into its folder", f"nano-exp cancel {words} first, or wait for the end"
    elif "unknown" in kinds:
        why, fix = "Slurm does not answer, or it was started on another host", "the same command when it can be told"
    else:
        why, fix = "files of the run cannot be read", f"nano-exp status {words}"
    what = ", ".join(f"{count} {kind}" for kind, count in Counter(now.kind for _, now in left).items())
    return UserError(f"nothing can be freed of {words}: {what}", why, fix, code=4 if kinds == {"unknown"} else 2)


# --- freeing --------------------------------------------------------------------------------------------------------


class _Freed:
    """What was freed so far, to be said whatever happens."""

    def __init__(self) -> None:
        self.size, self.files, self.runs = 0, 0, set[str]()
        self.problems: list[str] = []

    def add(self, run: Run, item: Item) -> None:
        self.size, self.files = self.size + item.size, self.files + item.files
        self.runs.add(f"{run.name}/{run.id}")

    def said(self) -> str:
        return f"freed {text.size(self.size)} ({_files(self.files)}) of {_count(len(self.runs), 'run')}"


def _free(results: Path, wanted: Sequence[Freeable], freed: _Freed) -> None:
    """First all names, while no launch can start a run; then the bytes, which may take long.

    What a kill leaves in between has a name that nothing reads, and is freed by the next time.
    """
    with submit.lock(results):
        asked = convergence.QueueLookup()
        asked.include(one.run for one in wanted)
        needs = needed.needs(results)
        aside = [pair for one in wanted for pair in _set_aside(one, asked, freeable.needed_by(one, needs), freed)]
    with progress_line.waiting("freeing ..."):
        for run, item, path in aside:
            if _remove(path, freed):
                freed.add(run, item)


def _set_aside(
    one: Freeable, asked: convergence.QueueLookup, needed_steps: Mapping[int, str], freed: _Freed
) -> list[tuple[Run, Item, Path]]:
    """Rename what is to go, as long as nothing has started the run since it was looked at, or needs a checkpoint."""
    run, gone = runs.load(one.run.dir), []
    now = asked.state(run)
    for item in one.items:
        if now.kind in _LEFT or freeable.attempt_number(run.dir) != one.attempt:
            freed.problems.append(f"{selection.word(run)} has been started meanwhile and is left alone")
            break
        if item.kind in (freeable.ROLLOUTS, freeable.RESPONSES, freeable.REMAINS):
            gone.append((run, item, item.path))  # of attempts that are over: nobody writes there any more
            continue
        if _whole(item) and (who := needed_steps.get(freeable.step_of(item))):
            freed.problems.append(f"{item.path} stays: meanwhile {who}")
            continue
        path = item.path.with_name(f"{freeable.ASIDE}{item.path.name}-{uuid.uuid4().hex[:8]}")
        try:
            item.path.rename(path)
            if path.lstat().st_ino != item.inode:  # a new one of that name, of an attempt that has just begun
                path.rename(item.path)
                continue
        except FileNotFoundError:  # somebody else was quicker
            continue
        except OSError as error:
            freed.problems.append(f"{item.path} cannot be removed: {error.strerror}")
            continue
        gone.append((run, item, path))
    return gone


def _remove(path: Path, freed: _Freed) -> bool:
    """Whether it is gone. Links in it go, not what they name."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        freed.problems.append(f"{error.filename or path} cannot be removed: {error.strerror}")
        return False
    return True


# --- words ----------------------------------------------------------------------------------------------------------


def _show(wanted: Sequence[Freeable], looked: Sequence[Freeable], left: Sequence[tuple[Run, State]]) -> None:
    rows = [row for one in wanted for row in _rows(one)]
    if rows:
        made = text.table(("run", "size", "files", "what"), [row[:4] for row in rows]).splitlines()
        print(_narrow(made))
        print(f"in all: {_sum(wanted)}")
    else:
        print(f"nothing to free in {_count(len(looked), 'run')}")
    for one in looked:
        for note in one.notes:
            print(f"  {selection.word(one.run)}: {note}")
    for run, now in left:
        print(f"  {selection.word(run)} is {now.kind} and is left alone: {_LEFT[now.kind]}")


def _rows(one: Freeable) -> list[tuple[str, str, str, str]]:
    """A row for each kind of thing that a run has to free."""
    rows: list[tuple[str, str, str, str]] = []
    for kind in dict.fromkeys(item.kind for item in one.items):
        items = [item for item in one.items if item.kind == kind]
        size, count = sum(item.size for item in items), sum(item.files for item in items)
        word = selection.word(one.run) if not rows else ""
        rows.append((word, text.size(size), str(count), _what(kind, items, one)))
    return rows


def _what(kind: str, items: Sequence[Item], one: Freeable) -> str:
    names = ", ".join(item.path.name for item in items[:4]) + (", ..." if len(items) > 4 else "")
    if kind == freeable.CHECKPOINT:
        stay = "; ".join(f"step_{step} ({why})" for step, why in sorted(one.kept.items()))
        return f"{_count(len(items), 'checkpoint')}: {names}; stays: {stay}"
    return {
        freeable.TORN: f"cut off, nothing reads it: {names}",
        freeable.REMAINS: "left by a removal that was cut off",
        freeable.ROLLOUTS: f"rollouts of {_count(len(items), 'step')} (train_data, val_data)",
        freeable.RESPONSES: f"NeMo Gym's responses in W&B's folder, {_count(len(items), 'table')}",
    }[kind]


def _narrow(lines: Sequence[str]) -> str:
    """The last column wrapped where the terminal is too narrow."""
    room, at = text.terminal_width(), lines[0].index("what")
    if room is None or room < at + 20:
        return "\n".join(lines)
    out = []
    for line in lines:
        first, *more = textwrap.wrap(line[at:], room - at, break_long_words=False) or [""]
        out += [line[:at] + first, *(" " * at + rest for rest in more)]
    return "\n".join(out)


def _sum(wanted: Sequence[Freeable]) -> str:
    size, files = sum(one.size for one in wanted), sum(one.files for one in wanted)
    return f"{text.size(size)} ({_files(files)}) of {_count(len(wanted), 'run')}"


def _files(count: int) -> str:
    return _count(count, "file")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _as_json(looked: Sequence[Freeable], left: Sequence[tuple[Run, State]], freed: _Freed) -> str:
    def shown(one: Freeable) -> dict[str, object]:
        return {
            "name": one.run.name,
            "run": one.run.id,
            "bytes": one.size,
            "files": one.files,
            "items": [
                {"what": item.kind, "path": str(item.path), "bytes": item.size, "files": item.files}
                for item in one.items
            ],
            "kept": {f"step_{step}": why for step, why in sorted(one.kept.items())},
            "notes": one.notes,
        }

    return json.dumps(
        {
            "runs": [shown(one) for one in looked],
            "left_alone": [{"name": run.name, "run": run.id, "state": now.kind} for run, now in left],
            "freed_bytes": freed.size,
            "freed_files": freed.files,
            "problems": freed.problems,
        },
        indent=1,
    )
