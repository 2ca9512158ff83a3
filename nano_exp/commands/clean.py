"""clean: free the disk that runs take and need no more."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, confirm, folder, named_runs, of_runs
from nano_exp.errors import UserError


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    clean = commands.add_parser(
        "clean",
        parents=[results],
        help="free disk: checkpoints that were cut off, or are neither best nor last, and logs; asks first",
        epilog="nano-exp clean lr --keep best,last --logs",
    )
    of_runs(clean.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, or names: all runs of it"))
    clean.add_argument(
        "--keep",
        default="best,last",
        help="checkpoints that stay: best (by checkpointing.metric_name), last (always), all, or steps: 40,80 "
        "(default: best,last)",
    )
    clean.add_argument(
        "--logs", action="store_true", help="also what is logged of each rollout: train_data_step files, W&B's tables"
    )
    clean.add_argument("--json", action="store_true", help="the same for scripts; frees only with --yes")
    clean.add_argument("-y", "--yes", action="store_true", help="do not ask")
    clean.set_defaults(run=_clean)


def _clean(given: argparse.Namespace) -> int:
    from nano_exp.index import selection
    from nano_exp.launch import clean

    names = sorted({one.name for one in selection.folders(folder(given))})
    for word in given.what:
        if word in ("best", "last", "all") and word not in names:
            raise UserError(
                f"nano-exp clean ... {word}",
                "runs and names stand there; what is kept is one word after --keep, with commas",
                f"nano-exp clean {' '.join(names)}" if word == "all" else "--keep best,last",
            )
    keep = clean.keep_words(given.keep)
    found = named_runs(given, given.what, "clean")
    return clean.clean(folder(given), found, keep, given.logs, given.yes, given.json, confirm)
