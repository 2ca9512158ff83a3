"""What a launch prints: the plan, what was submitted, what was learned, and the next command to type."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp import files, project, slurm, text
from nano_exp.compose import sweep
from nano_exp.compose.freeze import Frozen
from nano_exp.index import selection
from nano_exp.launch import batch_script, job_arrays, shared_cost, study_terms, to_the_end
from nano_exp.launch.convergence import Plan, Row
from nano_exp.launch.terms import Terms
from nano_exp.slurm import reasons
from nano_exp.store import axes, metrics_file, run_config, runs
from nano_exp.store.metrics_file import first_and_last
from nano_exp.store.results_folder import default_results
from nano_exp.terminal import grid
from nano_exp.text import relative, table

#: How many rows a plan shows before it says how many more there are.
MAX_ROWS = 40


def plan(the_plan: Plan) -> None:
    """The plan as a table: each run with its state, its point and why, and what is done about it."""
    counts = Counter(row.state.kind for row in the_plan.rows)
    total = f"{len(the_plan.rows)} run" + ("s" if len(the_plan.rows) != 1 else "")
    print(
        f"plan: {total} ({', '.join(f'{n} {kind}' for kind, n in counts.items())}), {len(the_plan.to_submit)} to submit"
    )
    rows(the_plan.rows)
    for row in the_plan.rows:
        if row.merged > 1:
            print(f"  {row.id}: {row.merged} points of this launch are equal and are one run")
    _twins(the_plan)
    for row in the_plan.of("changed"):
        _changed(row)
    for row in the_plan.of("damaged"):
        print(f"  {row.id} is damaged ({row.state.why}); fresh=true starts it again in a new folder", file=sys.stderr)
    sys.stdout.flush()


def rows(launch_rows: Sequence[Row]) -> None:
    """Runs of a launch, a column for each axis; what all of them have stands above."""
    shared = axes.shared([row.frozen.overrides for row in launch_rows])
    if shared:
        print(f"  all with: {' '.join(shared)}")
    shown = launch_rows[:MAX_ROWS]
    columns = {
        "run": [row.id for row in shown],
        "state": [row.state.kind for row in shown],
        "": ["submit" if row.submit else "-" for row in shown],
    }
    points = _points([row.frozen for row in launch_rows])[:MAX_ROWS]
    cells = grid.grid(columns, points, text.terminal_width(), indent="  ")
    alone = "" if len(launch_rows) > 1 else " ".join(launch_rows[0].frozen.overrides) or "(defaults)"
    print(grid.text(cells, [alone + _why(row, "  " if alone else "") for row in shown], "overrides" if alone else ""))
    if len(launch_rows) > MAX_ROWS:
        print(f"  ... and {len(launch_rows) - MAX_ROWS} more")


def _points(frozen_configs: Sequence[Frozen]) -> list[dict[str, axes.Value]]:
    """The point of each config of a launch; what goes to another place or under another name is told apart too."""
    typed = [axes.typed(one.overrides, place=True) for one in frozen_configs]
    return axes.points(
        typed, lambda index, key: axes.at(frozen_configs[index].config, frozen_configs[index].choices, key)
    )


def notes(lines: Sequence[str]) -> None:
    """What was chosen for the points (parallelism=auto), equal choices once."""
    for note, times in Counter(lines).items():
        print(note + (f" (for {times} points)" if times > 1 else ""))


def skipped(skipped_points: Sequence[sweep.Skipped], others: Sequence[Frozen]) -> None:
    """Each constraint that was broken, with the points that broke it: their values on all axes of the launch.

    Parameters
    ----------
    others: the other points
    """
    points = _points([*(one.frozen for one in skipped_points), *others])
    by_rule: dict[sweep.Constraint, list[dict[str, axes.Value]]] = {}
    for one, point in zip(skipped_points, points, strict=False):
        by_rule.setdefault(one.broken, []).append(point)
    for rule, broke in by_rule.items():
        count = f"{len(broke)} point" + ("s" if len(broke) > 1 else "")
        print(f"skipped: {count} without {rule.require}\n  why: {rule.because}")
        cells = grid.grid({}, broke[:MAX_ROWS], text.terminal_width(), indent="    ")
        print(grid.text(cells, [""] * len(cells.rows)))
        if len(broke) > MAX_ROWS:
            print(f"    ... and {len(broke) - MAX_ROWS} more")


def expected(the_plan: Plan, start: str, parameters: Mapping[str, Any], terms: Terms) -> None:
    """What the runs to submit cost, and when Slurm would start them: a line each, where it is known."""
    whole = to_the_end.whole(the_plan.to_submit)
    lines = [
        whole.line(),
        study_terms.cost(the_plan.rows, whole),
        *shared_cost.cost(the_plan.to_submit.configs, parameters, terms).lines(),
        start,
    ]
    for line in lines if the_plan.to_submit else ():
        if line:
            print(f"  {line}")


def _why(row: Row, gap: str) -> str:
    why = reasons.in_words(row.state.why) if row.state.kind == "pending" else row.state.why
    details = [w for w in (why, row.state.job and f"job {row.state.job}") if w]
    return f"{gap}[{', '.join(details)}]" if details else ""


def _twins(the_plan: Plan) -> None:
    """New runs whose config another name has: with that name they would not be trained again."""
    for name, count in Counter(row.twin for row in the_plan.rows if row.twin).items():
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


def submitted(ready: job_arrays.Launch) -> None:
    """The jobs that the runs of the plan above became, where their logs will be, and the next command."""
    sent = [array for array in ready.arrays if array.job]
    if not sent:
        return
    print(f"\nsubmitted as launch {ready.id}:")
    print(table(("job", "runs", "log (from its start)"), [_sent(array) for array in sent]))
    for line in _before(ready):
        print(f"  {line}")
    first = sent[0].rows[0]
    where = results_flag(ready.results)
    word = selection.word(runs.Run(first.dir))
    print(f"\nnext: nano-exp status {first.frozen.name}{where}    or    nano-exp logs -f {word}{where}")


def cut_off(ready: job_arrays.Launch) -> None:
    """After Ctrl-C in the middle of a submission: what of it is in the queue, and what is not."""
    count = sum(len(array.rows) for array in ready.arrays)
    queued = sum(len(array.rows) for array in ready.arrays if array.job)
    counts = f"{queued} of {count} runs are in the queue, {count - queued} are not"
    print(f"\nCtrl-C: {counts}; the same command submits the rest", file=sys.stderr)


def _sent(array: job_arrays.Array) -> tuple[str, str, str]:
    first, last = array.rows[0], array.rows[-1]
    if len(array.rows) == 1:
        return array.job, first.id, log_path(first)
    name = relative(first.dir.parent / "RUN" / LOG)
    if array.tasks == 1:
        return array.job, f"{first.id} to {last.id}, as above", name
    return f"{array.job_of(0)} to {array.job_of(array.tasks - 1)}", f"{first.id} to {last.id}, as above", name


def _before(ready: job_arrays.Launch) -> list[str]:
    """What a launch waits for, and how much of it runs at once."""
    lines = [f"after {_waits(ready)}"] if ready.after.terms else []
    if ready.canary is not None:
        row = ready.canary.rows[0]
        steps = row.config["grpo"]["max_num_steps"]
        lines.append(f"canary: job {ready.canary.job} runs {steps} steps first; its log: nano-exp logs -f {row.id}")
    if packs := [array for array in ready.arrays if array.pack]:
        slots = max(array.pack.slots for array in packs if array.pack)
        count = sum(array.tasks for array in packs)
        lines.append(f"packed: {count} allocation{'s' if count > 1 else ''}, at most {slots} runs at once in each")
    if len(ready.arrays) > 1:
        throttle = f", at most {ready.terms.parallel} runs at once" if ready.terms.parallel else ""
        lines.append(f"{len(ready.arrays)} job arrays{throttle}")
    return lines


def _waits(ready: job_arrays.Launch) -> str:
    """What a launch waits for, in its user's words, and as Slurm has it."""
    count = len(ready.after.waits)
    sources = ready.after.sources
    typed = [word for word in ready.terms.after if word not in {f"afterok:{source}" for source in sources}]
    what = ", ".join([*typed, *(f"{source}, whose weights it starts from" for source in sources)]) + (
        f" ({count} runs)" if count > 1 else ""
    )
    shared = ready.after.packed
    until = (
        f"; {shared[0]}{' and others' if len(shared) > 1 else ''}: as its whole allocation has ended" if shared else ""
    )
    return f"{what}: --dependency={','.join(ready.after.terms)}{until}"


def by_hand(ready: job_arrays.Launch) -> None:
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
    sweep = project.at(project.ROOT / "slurm" / "sweep.sbatch")
    has = slurm.script_options(sweep.read_text())
    options = [o for o in slurm.script_options((launch_dir / f"array-{array}.sbatch").read_text()) if o not in has]
    return shlex.join(["sbatch", *options, relative(sweep), relative(launch_dir), str(array)])


#: Where the engine's output will be in a run's folder: the attempts' link to the newest one.
LOG = "attempts/latest/stdout.log"


def log_path(row: Row) -> str:
    """A run's log, as one would type it from here."""
    return relative(row.dir / LOG)


def results_flag(results: Path) -> str:
    """The option that nano-exp needs to find these results from here; empty for the default folder."""
    return "" if results == default_results() else f" --results {relative(results)}"


def nothing_to_do(the_plan: Plan) -> None:
    """Everything wanted is done or under way."""
    row = the_plan.rows[0]
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
        print(f"\n{text.duration(seconds)} in all")
    sys.stdout.flush()


def result_lines(run_dir: Path) -> list[str]:
    """One run's outcome: state, reward and validation before and after, time, files."""
    rows = metrics_file.read(run_dir)
    tried = runs.attempts(run_dir)
    end = tried[-1].end if tried else None
    kind = str(end.get("kind")) if end else "lost" if tried else "not started"
    lines = [f"{run_dir.name}: {kind}" + (f" ({end['why']})" if end and end.get("why") else "")]
    summary = _summary(run_dir)
    if (summary.get("warm_start") or {}).get("steps"):
        steps = summary["warm_start"]["steps"]
        lines.append(f"  start       a supervised warm start of {steps} steps (syntax, and a random tool), then GRPO")
    reward = (summary["reward_before"], summary["reward_after"]) if summary.get("reward_after") is not None else None
    measured = "first step, mean of the last ones" if reward else "first and last step"
    for name, values, what in (
        ("reward", reward or first_and_last(rows, "train/reward"), measured),
        ("validation", first_and_last(rows, "validation/accuracy"), "accuracy, first and last measured"),
    ):
        if values:
            lines.append(f"  {name:12}{values[0]:.3f} -> {values[1]:.3f}  ({what})")
    steps = [int(r["step"]) for r in rows if "train/reward" in r]
    if steps:
        lines.append(f"  {'steps':12}{max(steps)}")
    seconds = [float(a.end["seconds"]) for a in tried if a.end and a.end.get("seconds") is not None]
    if seconds:
        attempts = f"{len(tried)} attempts" if len(tried) > 1 else "1 attempt"
        lines.append(f"  {'time':12}{text.duration(sum(seconds))} ({attempts})")
    lines.append(f"  {'files':12}{relative(run_dir)}  (config.yaml, metrics.jsonl, checkpoints/, logs/)")
    if kind == "failed" and tried:
        remedy = (end.get("diagnosis") or {}).get("remedy") if end else None
        lines += [f"  {'fix':12}{remedy}"] if remedy else []
        lines.append(f"  {'log':12}{relative(tried[-1].dir / 'stderr.log')}")
    return lines


def _summary(run_dir: Path) -> dict[str, Any]:
    """The embedded engine's summary.json, where the run's log_dir has one."""
    try:
        summary = files.read_json(Path(runs.load(run_dir).config()["logger"]["log_dir"]) / "summary.json")
    except (files.Damaged, OSError, KeyError, TypeError):
        return {}
    return summary if isinstance(summary, dict) else {}


def scripts(ready: job_arrays.Launch, parameters: dict[str, Any]) -> None:
    """The batch scripts as they would be sent: the first one, and the lines of the others that it has not."""
    first: list[str] = []
    for array in ready.arrays:
        count = _count(array)
        lines = batch_script.script(ready, array, parameters).splitlines()
        same = ", the same but for these lines" if first else ""
        print(f"# --- sbatch script: {count} of {array.shape}{same} ---")
        print("\n".join(line for line in lines if line not in first) + "\n")
        first = first or [*lines, ""]


def _count(array: job_arrays.Array) -> str:
    if array.pack:
        jobs = f"{array.tasks} allocations" if array.tasks > 1 else "one allocation"
        return f"{len(array.rows)} runs in {jobs}, {array.pack.slots} at a time each,"
    return f"{len(array.rows)} runs as one job array" if len(array.rows) > 1 else "1 run"


def engine_yaml(the_plan: Plan) -> None:
    """What the engine of the first run to submit reads, and what is different in the others."""
    rows = the_plan.to_submit or list(the_plan.rows)
    if rows:
        first = rows[0]
        print(f"# --- attempts/1/nemo_rl.yaml of {first.id}, as the {first.config['engine']['name']} engine reads it")
        print("# --- (the attempt adds checkpoint_must_save_by and, for tool calls, the parser's path) ---")
        print(files.dump_yaml(run_config.engine_config(first.config)), end="")
        for other in rows[1:MAX_ROWS]:
            print(f"# --- {other.id} differs in: {_differences(first, other)}")
        print()


def _differences(first: Row, other: Row) -> str:
    from nano_exp.store.identity import differences

    pairs = differences(first.config, other.config)
    return ", ".join(f"{key}={_value(new)}" for key, (_, new) in pairs.items())
