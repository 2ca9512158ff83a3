"""prepare: everything that a first job would make while its GPUs are idle, ahead of it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nano_exp.commands import Commands
from nano_exp.errors import UserError, choice, nearest

if TYPE_CHECKING:
    from nano_exp.prepare.step import Step


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    prepare = commands.add_parser(
        "prepare",
        epilog="nano-exp prepare model=nano_9b cluster=1n8g site=mine",
        help="model, data, NeMo RL, its environments and conversion, once, before a job needs them",
    )
    prepare.add_argument("overrides", nargs="*", help="as for launch.py: model=nano_9b cluster=1n8g ...")
    prepare.add_argument("--status", action="store_true", help="what is there, and nothing else")
    prepare.add_argument("--dry-run", action="store_true", help="what would be made, and by which command")
    prepare.add_argument("--only", action="append", metavar="STEP", help="this step alone; may be given again")
    prepare.add_argument("--revision", default="", help="the model's branch, tag or commit (default: what is there)")
    prepare.add_argument("--json", action="store_true", help="the table for scripts")
    prepare.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace) -> int:
    from nano_exp import environment
    from nano_exp.launch import points
    from nano_exp.prepare import step_table, steps, work

    configs = [frozen.config for frozen in points.expanded(arguments.overrides).frozen]
    if (env_file := environment.find(Path.cwd())) is not None:
        environment.enter(env_file)
    every = steps.of(configs, os.environ, steps.Wanted(arguments.revision))
    chosen = _chosen(every, arguments.only)
    if not chosen:
        print("nothing to prepare: the engine of this launch needs nothing that is made ahead")
        return 0
    if arguments.status or arguments.dry_run:
        results = work.look(chosen)
    else:
        results = work.make(chosen, lambda line: print(line, file=sys.stderr, flush=True))
    print(step_table.as_json(results) if arguments.json else step_table.text(results))
    if not arguments.json:
        print(f"\n{step_table.summary(results)}")
    return 1 if any(result.lacking for result in results) else 0


def _chosen(every: list[Step], names: list[str] | None) -> list[Step]:
    there = list(dict.fromkeys(step.name for step in every))
    for name in names or ():
        if name not in there:
            raise UserError(
                f"--only {name}",
                "this launch has no such step",
                choice("--only ", nearest(name, there), there) if there else "leave it out",
            )
    return [step for step in every if names is None or step.name in names]
