"""What a search says: of each trial as it changes, at its beginning, when it is left, and at its end."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp import files, project
from nano_exp.errors import UserError
from nano_exp.launch.search_space import COMPLETE, FAIL, PRUNED, RUNNING
from nano_exp.launch.search_trials import Trial
from nano_exp.store import axes
from nano_exp.terminal import grid
from nano_exp.text import relative, terminal_width

#: The file of the best point.
RESULT = "optimization_results.yaml"


def point(params: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={axes.as_typed(value)}" for key, value in params.items())


def line(number: int, trial: Trial, metric: str) -> str:
    """`trial 3  r0123456789  pruned, validation/accuracy 0.4 at step 20  optimizer.lr=0.001`"""
    assert trial.told is not None
    return f"trial {number}  {trial.id}  {_state(trial, metric)}  {point(trial.params)}"


def _state(trial: Trial, metric: str) -> str:
    told = trial.told
    assert told is not None
    value = "" if told.value is None else f", {metric} {told.value:.4g}"
    if told.state == COMPLETE:
        return f"complete{value}"
    if told.state == FAIL:
        return f"failed: {trial.why}" if trial.now.kind == "done" else trial.why
    where = f" at step {max(told.steps)}" if told.steps and trial.now.kind != "ended early" else ""
    if trial.is_over:
        return f"pruned{value or ', not measured'}{where}"
    return f"{'goes on' if told.steps else trial.now.kind}{value}{where}"


def beginning(name: str, trials: Sequence[Trial], n_trials: int) -> str:
    """How far an earlier command came."""
    if not trials:
        return f"search {name}: {n_trials} trials"
    return f"search {name}: {len(trials)} of {n_trials} trials are there ({_counts(trials)})"


def _counts(trials: Sequence[Trial]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(map(_word, trials)).items())


def _word(trial: Trial) -> str:
    """What a trial is: Optuna's word, or of one that Optuna takes for failed the run's own."""
    state = trial.told.state if trial.told is not None else RUNNING
    if state == FAIL:
        return "failed" if trial.now.kind == "done" else trial.now.kind
    return "under way" if state == RUNNING else state.lower()


def left(name: str, trials: Sequence[Trial], n_trials: int) -> str:
    """After Ctrl-C, or a mistake: what to type to go on."""
    there = f"search {name}: {len(trials)} of {n_trials} trials are there" + (f" ({_counts(trials)})" if trials else "")
    return f"{there}; to go on, the same command:\n  {project.launcher()} {shlex.join(sys.argv[1:])}"


def end(name: str, trials: Sequence[Trial], n_trials: int, best: Any, metric: str, folder: Path) -> str:
    """All trials, and the best one, which is written down too.

    Parameters
    ----------
    n_trials: as many were wanted
    best: Optuna's trial
    folder: gets optimization_results.yaml
    """
    told = [trial.told for trial in trials if trial.told is not None]
    columns = {
        "trial": [str(number) for number in range(1, len(trials) + 1)],
        "run": [trial.id for trial in trials],
        "": [_word(trial) for trial in trials],
        metric: ["" if one.value is None else f"{one.value:.4g}" for one in told],
        "rung": [str(max(one.steps)) if one.state == PRUNED and one.steps else "" for one in told],
    }
    points = [dict(trial.params) for trial in trials]
    columns = {name: column for name, column in columns.items() if any(column)}
    fewer = "; no other point was left to draw" if len(trials) < n_trials else ""
    cells = grid.grid(columns, points, terminal_width(), indent="  ")
    run = next(trial for trial in trials if trial.params == best.params)
    files.make_dir(folder)
    result = {"name": "optuna", "best_params": dict(best.params), "best_value": best.value, "best_run": run.id}
    files.write_text(folder / RESULT, files.dump_yaml(result))
    return "\n".join(
        [
            f"search {name}: {len(trials)} trials ({_counts(trials)}){fewer}",
            grid.text(cells, [""] * len(trials)),
            f"best: {run.id}, {metric} {best.value:.6g}, {point(best.params)}",
            f"  {relative(folder / RESULT)}",
        ]
    )


def nothing(trials: Sequence[Trial], metric: str) -> UserError:
    """Of a search without a complete trial."""
    whys = Counter(trial.why for trial in trials if trial.why)
    why = f"no run came to its end with a value of {metric}" + (f" ({whys.most_common(1)[0][0]})" if whys else "")
    return UserError(
        "no point of the search reached a value",
        why,
        "nano-exp status and nano-exp logs RUN show why a run failed; sweep.metric=NAME takes another metric",
        code=1,
    )
