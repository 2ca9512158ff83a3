"""What a launch prints: the plan, what was submitted, what was learned, and the next command to type."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp import files, freeze, progress, runs, slurm, snapshot, submit, sweep
from nano_exp.plan import Plan, Row
from nano_exp.preflight.cost import cost
from nano_exp.preflight.view import View
from nano_exp.runs import metric_before_after
from nano_exp.text import own_overrides, relative, shared_overrides, table

#: How many rows a plan shows before it says how many more there are.
MAX_ROWS = 40


def plan(made: Plan) -> None:
    """The plan as a table: each run with its state and why, and what is done about it."""
    counts = Counter(row.state.kind for row in made.rows)
    total = f"{len(made.rows)} run" + ("s" if len(made.rows) != 1 else "")
    print(f"plan: {total} ({', '.join(f'{n} {kind}' for kind, n in counts.items())}), {len(made.to_submit)} to submit")
    shared = shared_overrides([row.frozen.overrides for row in made.rows])
    if shared:
        print(f"  all with: {' '.join(shared)}")
    shown = made.rows[:MAX_ROWS]
    cells = [
        (r.id, r.state.kind, "submit" if r.submit else "-", own_overrides(r.frozen.overrides, shared) + _why(r))
        for r in shown
    ]
    print(table(("run", "state", "", "overrides"), cells))
    if len(made.rows) > MAX_ROWS:
        print(f"  ... and {len(made.rows) - MAX_ROWS} more")
    for row in made.rows:
        if row.merged > 1:
            print(f"  {row.id}: {row.merged} points of this launch are equal and are one run")
    _twins(made)
    for row in made.of("changed"):
        _changed(row)
    for row in made.of("damaged"):
        print(f"  {row.id} is damaged ({row.state.why}); fresh=true starts it again in a new folder", file=sys.stderr)
    sys.stdout.flush()


def notes(said: Sequence[str]) -> None:
    """What was chosen for the points (parallelism=auto), equal choices once."""
    for note, times in Counter(said).items():
        print(note + (f" (for {times} points)" if times > 1 else ""))


def skipped(found: Sequence[sweep.Skipped]) -> None:
    """Each constraint that was broken, with the points that broke it."""
    by_rule: dict[sweep.Constraint, list[sweep.Skipped]] = {}
    for one in found:
        by_rule.setdefault(one.broken, []).append(one)
    for rule, points in by_rule.items():
        count = f"{len(points)} point" + ("s" if len(points) > 1 else "")
        print(f"skipped: {count} without {rule.require}\n  why: {rule.because}")
        shared = shared_overrides([one.frozen.overrides for one in found])
        for one in points[:MAX_ROWS]:
            print(f"    {own_overrides(one.frozen.overrides, shared)}")
        if len(points) > MAX_ROWS:
            print(f"    ... and {len(points) - MAX_ROWS} more")


def expected(made: Plan, start: str, parameters: Mapping[str, Any]) -> None:
    """What the runs to submit cost at most, and when Slurm would start them: a line each, where it is known."""
    lines = [cost([View(row.config) for row in made.to_submit], parameters).line(), start]
    for line in lines if made.to_submit else ():
        if line:
            print(f"  {line}")


def _why(row: Row) -> str:
    details = [w for w in (row.state.why, row.state.job and f"job {row.state.job}") if w]
    return f"  [{', '.join(details)}]" if details else ""


def _twins(made: Plan) -> None:
    """New runs whose config another name has: with that name they would not be trained again."""
    for name, count in Counter(row.twin for row in made.rows if row.twin).items():
        print(f"  {count} of the new ones have the same config as a run of {name}; run.name={name} goes on with those")


def _changed(row: Row) -> None:
    print(f"\n{row.id}: the same overrides gave another config before ({row.state.why}); nothing is submitted for it:")
    changes = [(key, _value(old), _value(new)) for key, (old, new) in row.changes.items()]
    print(table(("key", "then", "now"), changes, indent="    "))
    print(
        "  to start the new config: the same command with fresh=true; to keep the old one: give the key its old value"
    )


def _value(value: Any) -> str:
    return json.dumps(value)


def submitted(ready: submit.Launch) -> None:
    """Each run that has a job, with its log and the next command."""
    rows = [(array, i, row) for array in ready.arrays if array.job for i, row in enumerate(array.rows)]
    if not rows:
        return
    shared = shared_overrides([row.frozen.overrides for _, _, row in rows])
    print(f"\nsubmitted as launch {ready.id}:")
    if shared:
        print(f"  all with: {' '.join(shared)}")
    cells = [
        (row.id, array.job_of(i), log_path(row), own_overrides(row.frozen.overrides, shared))
        for array, i, row in rows[:MAX_ROWS]
    ]
    print(table(("run", "job", "log (from its start)", "overrides"), cells))
    if len(rows) > MAX_ROWS:
        print(f"  ... and {len(rows) - MAX_ROWS} more; nano-exp status lists them")
    for line in _before(ready):
        print(f"  {line}")
    where = results_flag(ready.results)
    print(f"\nnext: nano-exp status {rows[0][2].frozen.name}{where}    or    nano-exp logs -f {cells[0][0]}{where}")


def _before(ready: submit.Launch) -> list[str]:
    """What a launch waits for, and how much of it runs at once."""
    lines = [f"after {', '.join(ready.after)} (Slurm's --dependency)"] if ready.after else []
    if ready.canary is not None:
        row = ready.canary.rows[0]
        steps = row.config["grpo"]["max_num_steps"]
        lines.append(f"canary: job {ready.canary.job} runs {steps} steps first; its log: {log_path(row)}")
    if len(ready.arrays) > 1:
        throttle = f", at most {ready.terms.parallel} runs at once" if ready.terms.parallel else ""
        lines.append(f"{len(ready.arrays)} job arrays{throttle}")
    return lines


def by_hand(ready: submit.Launch) -> None:
    """After submit=false: the sbatch command of each array, exactly as it has to be typed here."""
    rows = [row for array in ready.arrays for row in array.rows]
    number = len(rows)
    print(f"\nfrozen as launch {ready.id}, {number} run{'s' if number != 1 else ''}, nothing submitted. to send:")
    for array in ready.arrays:
        print(f"  {sbatch_command(ready.dir, array.number)}")
    print(f"\nnext: nano-exp status {rows[0].frozen.name}{results_flag(ready.results)}")


def sbatch_command(launch_dir: Path, array: int) -> str:
    """`sbatch OPTIONS slurm/sweep.sbatch LAUNCH ARRAY`: the options of the array's own script that sweep.sbatch lacks.

    The job's name is among them, by which a launch finds the job before it starts.
    """
    sweep = snapshot.PACKAGE.parent / "slurm" / "sweep.sbatch"
    has = slurm.script_options(sweep.read_text())
    options = [o for o in slurm.script_options((launch_dir / f"array-{array}.sbatch").read_text()) if o not in has]
    return shlex.join(["sbatch", *options, relative(sweep), relative(launch_dir), str(array)])


def log_path(row: Row) -> str:
    """Where the engine's output will be: the attempts' link to the newest one."""
    return relative(row.dir / "attempts" / "latest" / "stdout.log")


def results_flag(results: Path) -> str:
    """The option that nano-exp needs to find these results from here; empty for the default folder."""
    from nano_exp.cli import default_results

    return "" if results == default_results() else f" --results {relative(results)}"


def nothing_to_do(made: Plan) -> None:
    """Everything wanted is done or under way."""
    row = made.rows[0]
    where = results_flag(row.results)
    print(f"\nnothing to submit. next: nano-exp status {row.frozen.name}{where}    (fresh=true starts again)")


def interrupted(run_dirs: Sequence[Path]) -> None:
    """After Ctrl-C: what each run kept."""
    for run_dir in run_dirs:
        tried = runs.attempts(run_dir)
        end = tried[-1].end if tried else None
        print(f"{run_dir.name}: {end['kind']} ({end['why']})" if end else f"{run_dir.name}: not started")
    print("the same command goes on from there")


def results(run_dirs: Sequence[Path], seconds: float | None = None) -> None:
    """What was learned, and where it lies."""
    for run_dir in run_dirs:
        print()
        print("\n".join(result_lines(run_dir)))
    if seconds is not None:
        print(f"\n{progress.duration(seconds)} in all")
    sys.stdout.flush()


def result_lines(run_dir: Path) -> list[str]:
    """One run's outcome: state, reward and validation before and after, time, files."""
    rows = runs.read_metrics(run_dir)
    tried = runs.attempts(run_dir)
    end = tried[-1].end if tried else None
    kind = str(end.get("kind")) if end else "lost"
    lines = [f"{run_dir.name}: {kind}" + (f" ({end['why']})" if end and end.get("why") else "")]
    summary = _summary(run_dir)
    if (summary.get("warm_start") or {}).get("steps"):
        steps = summary["warm_start"]["steps"]
        lines.append(f"  start       a supervised warm start of {steps} steps (syntax, and a random tool), then GRPO")
    reward = (summary["reward_before"], summary["reward_after"]) if summary.get("reward_after") is not None else None
    measured = "first step, mean of the last ones" if reward else "first and last step"
    for name, values, what in (
        ("reward", reward or metric_before_after(rows, "train/reward"), measured),
        ("validation", metric_before_after(rows, "validation/accuracy"), "accuracy, first and last measured"),
    ):
        if values:
            lines.append(f"  {name:12}{values[0]:.3f} -> {values[1]:.3f}  ({what})")
    steps = [int(r["step"]) for r in rows if "train/reward" in r]
    if steps:
        lines.append(f"  {'steps':12}{max(steps)}")
    seconds = [float(a.end["seconds"]) for a in tried if a.end and a.end.get("seconds") is not None]
    if seconds:
        attempts = f"{len(tried)} attempts" if len(tried) > 1 else "1 attempt"
        lines.append(f"  {'time':12}{progress.duration(sum(seconds))} ({attempts})")
    lines.append(f"  {'files':12}{relative(run_dir)}  (config.yaml, metrics.jsonl, checkpoints/, logs/)")
    if kind == "failed" and tried:
        remedy = (end.get("diagnosis") or {}).get("remedy") if end else None
        lines += [f"  {'fix':12}{remedy}"] if remedy else []
        lines.append(f"  {'log':12}{relative(tried[-1].dir / 'stderr.log')}")
    return lines


def _summary(run_dir: Path) -> dict[str, Any]:
    """The embedded engine's summary.json, where the run's log_dir has one."""
    try:
        found = files.read_json(Path(runs.load(run_dir).config()["logger"]["log_dir"]) / "summary.json")
    except (files.Damaged, OSError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def dry_run(made: Plan, ready: submit.Launch, where: str, parameters: dict[str, Any]) -> None:
    """The batch scripts and the engine's YAML as they would be written."""
    if where == "slurm":
        for array in ready.arrays:
            count = f"{len(array.rows)} runs as one job array" if len(array.rows) > 1 else "1 run"
            print(f"\n# --- sbatch script: {count} of {array.shape} ---")
            print(submit.script(ready, array, parameters), end="")
    rows = made.to_submit or list(made.rows)
    if rows:
        first = rows[0]
        print(f"\n# --- attempts/1/nemo_rl.yaml of {first.id}, as the {first.config['engine']['name']} engine reads it")
        print("# --- (the attempt adds checkpoint_must_save_by and, for tool calls, the parser's path) ---")
        print(files.dump_yaml(freeze.engine_config(first.config)), end="")
        for other in rows[1:MAX_ROWS]:
            print(f"# --- {other.id} differs in: {_differences(first, other)}")
    print("\ndry run: nothing was submitted and nothing was written")


def _differences(first: Row, other: Row) -> str:
    from nano_exp.identity import differences

    pairs = differences(first.config, other.config)
    return ", ".join(f"{key}={_value(new)}" for key, (_, new) in pairs.items())
