"""prepare: everything that a first job would make while its GPUs are idle, ahead of it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_exp.commands import Commands
from nano_exp.errors import UserError, choice, nearest

if TYPE_CHECKING:
    from nano_exp.prepare.step import Step


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    prepare = commands.add_parser(
        "prepare",
        epilog="nano-exp prepare model=nano_9b cluster=1n8g site=mysite",
        help="model, data, NeMo RL, its environments and conversion, once, before a job needs them",
    )
    prepare.add_argument("overrides", nargs="*", help="as for launch.py: model=nano_9b cluster=1n8g ...")
    prepare.add_argument("--status", action="store_true", help="what is there, and nothing else")
    prepare.add_argument("--dry-run", action="store_true", help="what would be made, and by which command")
    prepare.add_argument("--only", action="append", metavar="STEP", help="this step alone; may be given again")
    prepare.add_argument("--revision", default="", help="the model's branch, tag or commit (default: what is there)")
    prepare.add_argument("--checkout", default="", metavar="TAG", help="clone NeMo RL's release where there is none")
    prepare.add_argument("--from", dest="url", metavar="URL", help="clone it from here, a mirror or a bare repository")
    prepare.add_argument("--submit", action="store_true", help="send the conversion as a job where GPUs are wanted")
    prepare.add_argument("--json", action="store_true", help="the table for scripts")
    prepare.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace) -> int:
    from nano_exp import environment, project
    from nano_exp.launch import points
    from nano_exp.prepare import sources, step_table, steps, work

    words = list(arguments.overrides)
    configs = [frozen.config for frozen in points.expanded(words).frozen]
    _require_release(arguments.checkout, configs)
    unnamed = arguments.checkout and any(sources.is_wanted(config) for config in configs)
    if unnamed:
        words.append(f"site.checkout={Path.cwd() / f'nemo-rl-{arguments.checkout}'}")
        configs = [frozen.config for frozen in points.expanded(words).frozen]
    if (env_file := environment.find(Path.cwd())) is not None:
        environment.enter(env_file)
    wanted = steps.Wanted(arguments.revision, arguments.checkout, arguments.url or sources.URL, tuple(words))
    every = steps.of(configs, os.environ, wanted)
    chosen = _chosen(every, arguments.only)
    if not chosen:
        print("[]" if arguments.json else "nothing to prepare: this launch's engine needs nothing that is made ahead")
        return 0
    if arguments.status or arguments.dry_run:
        results = work.look(chosen)
    else:
        try:
            results = work.make(chosen, lambda line: print(line, file=sys.stderr, flush=True), arguments.submit)
        except KeyboardInterrupt:
            print("\nCtrl-C: what is there is kept; the same command goes on with it", file=sys.stderr)
            raise
    print(step_table.as_json(results) if arguments.json else step_table.text(results))
    if not arguments.json:
        print(f"\n{step_table.summary(results)}")
        if unnamed:
            print(f"for the site's file, conf/site/NAME.yaml: checkout: {configs[0]['site']['checkout']}")
        if not (arguments.status or arguments.dry_run):
            several = " -m" if len(configs) > 1 else ""
            print(f"next: {project.launcher()}{several} {shlex.join(words)}")
    return 1 if any(result.lacking for result in results) else 0


def _require_release(release: str, configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a clone of another release than the config is made for."""
    for config in configs:
        version = str((config.get("nemo_rl") or {}).get("version") or "")
        wanted = "main" if "+" in version else version
        if release and wanted and release != wanted:
            option = "_".join(release.split(".")[:2])
            raise UserError(
                f"--checkout {release}, and the config is for NeMo RL {version}",
                "keys and defaults differ between versions",
                f"--checkout {wanted}, or nemo_rl={option}",
            )


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
