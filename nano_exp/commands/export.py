"""export: a run's checkpoint as Hugging Face weights, with a model card."""

from __future__ import annotations

import argparse
import shlex

from nano_exp.commands import Commands, checkpoint_options, folder


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export",
        epilog="nano-exp export r0123456789 --step best",
        parents=[results],
        help="a checkpoint as Hugging Face weights, with a model card, in the run's folder",
    )
    checkpoint_options(export)
    export.add_argument("--upload", metavar="USER/NAME", help="to the Hugging Face hub, with HF_TOKEN; private if new")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from nano_exp.after import export, making
    from nano_exp.index import selection

    run = selection.one(folder(arguments), arguments.run_id)
    chosen = making.choose(run, arguments.step)
    if arguments.dry_run:
        print(shlex.join(chosen.engine.export(chosen.config, chosen.path, export.folder(chosen)).argv))
        return 0
    if arguments.submit:
        from nano_exp.after import jobs

        print(jobs.submit(run, ["export"], chosen.step))
        return 0
    target = export.export(chosen, lambda line: print(line, flush=True))
    if arguments.upload:
        export.upload(target, arguments.upload, lambda line: print(line, flush=True))
    return 0
