"""The table of runs: state, step, reward, validation accuracy, age."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nano_exp import progress, runs, state, text
from nano_exp.asked import Asked
from nano_exp.errors import UserError, nearest


@dataclass(frozen=True)
class Line:
    """One run. Times are unix seconds; `age_s` counts from the newest thing that happened to the run."""

    name: str
    run: str
    state: str
    why: str
    job: str
    attempt: int
    step: int
    max_steps: int | None
    reward: float | None
    validation_accuracy: float | None
    age_s: float | None
    overrides: list[str]
    dir: str
    damaged: list[str]


def lines(results: Path, wanted: Sequence[str], asked: Asked, now: float | None = None) -> list[Line]:
    """The runs of a results folder, or those whose name or id is wanted (an id may be cut short).

    Raises
    ------
    UserError: nothing there, or nothing of that name
    """
    moment = time.time() if now is None else now
    found = select(results, wanted)
    asked.include(found)
    return [_line(run, asked.state(run), moment) for run in found]


def select(results: Path, wanted: Sequence[str]) -> list[runs.Run]:
    """Runs by name or by id. Raises UserError, with the nearest real name."""
    found = list(runs.find(results))
    if not found:
        raise UserError(
            f"no runs in {results}",
            "status, logs and the rest look in ./results, in NANO_EXP_RESULTS or in --results",
            "python launch.py makes the first one; elsewhere: --results /path/to/results",
        )
    if not wanted:
        return found
    chosen: dict[Path, runs.Run] = {}
    for word in wanted:
        hits = [r for r in found if r.name == word] or [r for r in found if r.id.startswith(word)]
        if not hits:
            near = nearest(word, {r.name for r in found} | {r.id for r in found})
            names = ", ".join(sorted({r.name for r in found}))
            raise UserError(
                f"no run and no name '{word}' in {results}",
                f"names there: {names}",
                f"nano-exp status {near[0]}" if near else "nano-exp status",
            )
        chosen.update({r.dir: r for r in hits})
    return list(chosen.values())


def one(results: Path, word: str) -> runs.Run:
    """Exactly one run by its id, a part of it, or a name with a single run."""
    hits = select(results, [word])
    if len(hits) > 1:
        shown = ", ".join(r.id for r in hits[:6])
        raise UserError(f"'{word}' is {len(hits)} runs: {shown}", "this wants one run", f"nano-exp ... {hits[0].id}")
    return hits[0]


def _line(run: runs.Run, now_state: state.State, moment: float) -> Line:
    now = progress.sample(run.dir)
    last = run.events[-1].time if run.events else run.created
    max_steps = run.record.get("max_steps")
    return Line(
        name=run.name,
        run=run.id,
        state=now_state.kind,
        why=now_state.why,
        job=now_state.job,
        attempt=now_state.attempt,
        step=now.step,
        max_steps=max_steps if isinstance(max_steps, int) else None,
        reward=now.reward,
        validation_accuracy=now.accuracy,
        age_s=moment - last if last and math.isfinite(last) else None,
        overrides=run.overrides,
        dir=str(run.dir),
        damaged=run.damaged,
    )


def as_json(found: Iterable[Line], asked: Asked) -> str:
    """One object: the runs, and Slurm's error where it did not answer."""
    rows = [{k: _finite(v) for k, v in asdict(line).items()} for line in found]
    return json.dumps({"slurm_error": asked.error or None, "runs": rows}, indent=1)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_table(found: Sequence[Line], asked: Asked) -> str:
    """For the terminal; units in the header or in the cell. What all runs of a name share is left out."""
    shared = {
        name: text.shared_overrides([line.overrides for line in found if line.name == name])
        for name in {line.name for line in found}
    }
    cells = [
        (
            line.name,
            line.run,
            line.state,
            f"{line.step}/{line.max_steps if line.max_steps is not None else '?'}",
            "-" if line.reward is None else f"{line.reward:.3f}",
            "-" if line.validation_accuracy is None else f"{line.validation_accuracy:.3f}",
            "-" if line.age_s is None else progress.duration(line.age_s),
            text.short_title([o for o in line.overrides if o not in shared[line.name]]) + _remark(line),
        )
        for line in found
    ]
    whole = text.table(("name", "run", "state", "step", "reward", "validation", "age", "what"), cells, indent="")
    if asked.error:
        whole += f"\n\nSlurm does not answer ({asked.error}): states that depend on it are shown as unknown"
    return whole


def _remark(line: Line) -> str:
    parts = [p for p in (line.why, *line.damaged) if p]
    if line.state in state.ACTIVE and line.job:
        parts.append(f"job {line.job}")
    return f"  [{'; '.join(parts)}]" if parts else ""
