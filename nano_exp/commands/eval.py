"""eval: a run's checkpoint on held-out tasks; the result stands in the run's folder, in compare and in report."""

from __future__ import annotations

import argparse
import json
import shlex

from nano_exp.commands import Commands, checkpoint_options, folder


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    evaluate = commands.add_parser(
        "eval",
        epilog="nano-exp eval r0123456789 --data validation",
        parents=[results],
        help="a checkpoint's accuracy on held-out tasks, for compare and report",
    )
    checkpoint_options(evaluate)
    evaluate.add_argument("--data", default="", help="a set's name, or a file of tasks (default: the run's validation)")
    evaluate.add_argument("--json", action="store_true", help="the result for scripts")
    evaluate.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> int:
    from nano_exp.after import evaluation, making
    from nano_exp.index import selection

    run = selection.one(folder(arguments), arguments.run_id)
    chosen = making.choose(run, arguments.step)
    target = evaluation.file_of(chosen, arguments.data)
    if arguments.dry_run:
        print(
            shlex.join(chosen.engine.evaluate(chosen.config, chosen.path, arguments.data, target.with_suffix("")).argv)
        )
        return 0
    if arguments.submit:
        from nano_exp.after import jobs

        word = f"eval:{arguments.data}" if arguments.data else "eval"
        print(jobs.submit(run, [word], chosen.step))
        return 0
    evaluation.evaluate(chosen, arguments.data, (lambda line: None) if arguments.json else print)
    if arguments.json:
        from nano_exp import files

        print(json.dumps(files.read_json(target)))
    return 0
