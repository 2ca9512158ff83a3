"""The words of `after_training=`, and doing what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nano_exp.after import evaluation, export, making
from nano_exp.engines.checkpoints import BEST, LAST
from nano_exp.errors import UserError
from nano_exp.store import runs, state
from nano_exp.text import Say

KINDS = ("export", "eval")


def require(words: Sequence[str]) -> None:
    """Refuse words that ask for nothing. Raises UserError."""
    for word in words:
        kind, colon, what = word.partition(":")
        if kind not in KINDS or (colon and not what):
            raise UserError(
                f"after_training={word}",
                "it is export, export:STEP, eval or eval:DATA, or a list of them",
                "after_training=[export,eval]",
            )
        if kind == "export" and what and what not in (BEST, LAST) and not what.isdigit():
            raise UserError(f"after_training={word}", "a step is a number, best or last", "after_training=export:best")


def step_of(words: Sequence[str]) -> str:
    """Which checkpoint is meant: that of `export:STEP`, where it is there; else nothing."""
    return next((word.partition(":")[2] for word in words if word.startswith("export:")), "")


def pending(run_dir: Path, words: Sequence[str]) -> list[str]:
    """The words whose result is not there yet, of a run that is done. Raises UserError."""
    run = runs.load(run_dir)
    chosen = making.choose(run, step_of(words))
    files_of = {
        word: export.folder(chosen) / export.FACTS
        if word.startswith("export")
        else evaluation.file_of(chosen, word.partition(":")[2])
        for word in words
    }
    return [word for word, path in files_of.items() if not path.is_file()]


def follow(run_dir: Path, words: Sequence[str], say: Say, step: str = "") -> None:
    """Do what the words ask for, once each. Of a run that is not done: nothing. Raises UserError."""
    run = runs.load(run_dir)
    if not step and not state.is_done(runs.attempts(run_dir)):
        say(f"run {run.id} is not done: nothing to do after it")
        return
    chosen = making.choose(run, step or step_of(words))
    for word in sorted(words, key=lambda word: not word.startswith("export")):
        kind, _, what = word.partition(":")
        if kind == "export":
            export.export(chosen, say)
        else:
            evaluation.evaluate(chosen, what, say)
