"""python -m nano_exp.after LAUNCH --array K [--task I] WORD ...: what follows a run of a launch, once that is done.

export, export:best, export:N      Hugging Face weights of a checkpoint (default: best where it has a metric)
eval, eval:DATA                    an evaluation of the same checkpoint
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nano_exp import environment, files
from nano_exp.after import follow
from nano_exp.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nano_exp.after", description=__doc__)
    parser.add_argument("launch", type=Path, help="the launch's folder, with manifest.json")
    parser.add_argument("--array", type=int, required=True, help="which of its arrays")
    parser.add_argument("--task", type=int, default=int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")), help="its run")
    parser.add_argument("--step", default="", help="of which checkpoint, where no word says")
    parser.add_argument("words", nargs="+", metavar="WORD")
    arguments = parser.parse_args(argv)
    try:
        manifest = files.read_json(arguments.launch / "manifest.json")
        if manifest.get("env_file"):
            environment.enter(Path(manifest["env_file"]))
        run_dir = Path(manifest["arrays"][arguments.array]["runs"][arguments.task])
        follow.follow(run_dir, arguments.words, lambda line: print(line, flush=True), arguments.step)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
