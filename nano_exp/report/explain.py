"""Logs explained without a store: cause, whose fault it is, the lines that show it, and what to type."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files, triage
from nano_exp.errors import UserError
from nano_exp.store import runs
from nano_exp.triage import printed

STDIN = "-"
#: Of each log's end, bytes.
WINDOW = 64 * 1024 * 1024
#: The part of a log's name that says which of a job's two streams it is.
_STREAM = re.compile(r"(?:^|(?<=[._-]))(?:std)?(out|err)(?=[._-]|$)")
NOTHING = "if it failed all the same: give its other log too, and see `sacct -j JOB -o State,ExitCode,Reason`"
FAULTS = {
    "infrastructure": "the cluster's: launching again may do",
    "config": "the config's",
    "code": "the code's",
    "user": "the place's: a path, a token, an account, an environment",
    "unknown": "not known",
}


@dataclass(frozen=True)
class Explained:
    """What the logs of one job say; `names` are the files as they were given."""

    names: tuple[str, ...]
    diagnosis: triage.Diagnosis


def explain(names: Sequence[str]) -> list[Explained]:
    """The cause of each job, in the order of its first file.

    Raises
    ------
    UserError: a file cannot be read
    """
    jobs: dict[tuple[Path, str], list[str]] = {}
    for name in dict.fromkeys(names):
        path = Path(name)
        jobs.setdefault((path.parent, _STREAM.sub("", path.name)), []).append(name)
    return [Explained(tuple(of_one), _diagnose(of_one)) for of_one in jobs.values()]


def _diagnose(names: Sequence[str]) -> triage.Diagnosis:
    out = "\n".join(_read(name) for name in names if not _is_stderr(name))
    err = "\n".join(_read(name) for name in names if _is_stderr(name))
    return triage.diagnose(
        triage.Evidence(stdout=out, stderr=err, config=_config(names[0]) or printed.config(out), logs_alone=True)
    )


def _is_stderr(name: str) -> bool:
    match = _STREAM.search(Path(name).name)
    return match is not None and match[1] == "err"


def _read(name: str) -> str:
    if name == STDIN:
        return sys.stdin.buffer.read().decode(errors="replace")
    path = Path(name).expanduser()
    try:
        with path.open("rb") as log:
            if log.seekable():  # a pipe is not: <(zcat old.log.gz)
                log.seek(max(0, log.seek(0, os.SEEK_END) - WINDOW))
            return log.read().decode(errors="replace")
    except OSError as error:
        fix = f"nano-exp explain {path}/*" if path.is_dir() else "nano-exp explain FILE, or - for standard input"
        raise UserError(f"{name} cannot be read", f"{error.strerror}", fix) from error


def _config(name: str) -> Mapping[str, Any]:
    """The config of the run in whose attempt a log lies (<run>/attempts/<n>/stdout.log); empty for any other log."""
    parents = Path(name).expanduser().absolute().parents
    if name == STDIN or len(parents) < 3 or parents[1].name != "attempts":
        return {}
    run = runs.load(parents[2], events=False)
    try:
        return run.config() if "digest" in run.record else {}
    except (files.Damaged, OSError):
        return {}


# --- for people and for scripts -------------------------------------------------------------------------------------


def as_json(explained: Iterable[Explained]) -> str:
    """One object for each job: its files, and the diagnosis."""
    return json.dumps([{"files": list(job.names), **job.diagnosis.as_dict()} for job in explained], indent=1)


def as_text(explained: Iterable[Explained], width: int | None) -> str:
    """Paragraphs of at most `width` characters a line (None: each part on a line of its own)."""
    return "\n\n".join(_paragraph(job, width) for job in explained)


def _paragraph(job: Explained, width: int | None) -> str:
    diagnosis = job.diagnosis
    parts = [("cause", f"{diagnosis.title} [{diagnosis.cause}]"), ("fault", FAULTS[diagnosis.fault])]
    parts += [("shown by" if i == 0 else "", line) for i, line in enumerate(diagnosis.lines)]
    parts.append(("fix", diagnosis.remedy or NOTHING))
    if diagnosis.cause == "none":
        del parts[1]
    return "\n".join([" ".join(job.names), *(_wrapped(word, text, width) for word, text in parts)])


def _wrapped(word: str, text: str, width: int | None) -> str:
    head = f"  {word:10}"
    if width is None:
        return head + text
    return textwrap.fill(
        text, max(width, 40), initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )
