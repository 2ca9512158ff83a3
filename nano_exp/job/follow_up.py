"""`after_training=` of a run of a study that is done in another job than its launch sent, or beside others in one.

The launch's own jobs wait for its arrays. What waited for a run that paused has left the queue, and nothing waits for
the job in which the run goes on later; and a job with several runs ends with the last of them: so the attempt that
finishes such a run sends what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nano_exp import files, slurm
from nano_exp.after import jobs
from nano_exp.errors import UserError
from nano_exp.job import rung_end
from nano_exp.job.ending import Ending
from nano_exp.store import runs, state


def send(run_dir: Path, manifest: Mapping[str, Any], ahead: Ending) -> None:
    """Send it unless it is in the queue; says what was done, or that the same launch does it."""
    run = runs.load(run_dir)
    words = (manifest.get("terms") or {}).get("after_training") or []
    sent = state.submission(run)
    if not words or sent is None or not (sent.packed or _sent_again(run, sent.launch)):
        return
    try:
        said = "what follows the training was not sent; launching again does it"
        rung_end.until_answered(partial(_send, run, sent, words, ahead), said, ahead)
    except (UserError, files.Damaged, OSError) as error:
        ahead.say(f"{said}: {error}")


def _sent_again(run: runs.Run, launch: str) -> bool:
    return sum(event.kind == "submit" and event.data.get("launch") == launch for event in run.events) > 1


def _send(run: runs.Run, sent: state.Submission, words: list[str], ahead: Ending) -> None:
    if not jobs.is_queued(run, sent, slurm.queue(run.users)):
        ahead.say(f"after training: {', '.join(words)}, {jobs.submit(run, words)}")
