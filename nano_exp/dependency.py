"""What a launch has to wait for: `after=` as Slurm's dependencies.

    after=RUN                 a run's id, or a name: all of its runs. They have to end as done
    after=JOB                 a Slurm job or array task that is no run: it has to end with exit code 0
    after=afterany:RUN        however it ends
    'after=[RUN,afterany:JOB]'    all of them

A run that is done imposes nothing. One that has ended otherwise would be waited for in vain, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_exp import slurm, state
from nano_exp.asked import Asked
from nano_exp.errors import UserError
from nano_exp.report import select
from nano_exp.state import State

#: How sacct calls a job whose end `afterok` waits for in vain. Others (PREEMPTED, NODE_FAIL) may be started again.
IN_VAIN = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")


@dataclass(frozen=True)
class Wish:
    """One word of `after`: how (afterok, afterany), and what is meant."""

    how: str
    what: str

    @property
    def is_job(self) -> bool:
        return re.fullmatch(r"\d+(_\d+)?", self.what) is not None


def parse(word: str) -> Wish:
    """`afterany:r12ab` -> Wish. Raises UserError for Slurm's other kinds."""
    how, colon, what = word.rpartition(":")
    how = how if colon else "afterok"
    if how not in ("afterok", "afterany") or not what:
        raise UserError(
            f"after={word}",
            "a launch waits for what it names to end well (afterok, also without a word) or to end at all (afterany)",
            f"after={what or 'RUN'} or after=afterany:{what or 'RUN'}; Slurm's other kinds: "
            "+hydra.launcher.additional_parameters.dependency=...",
        )
    return Wish(how, what)


def terms(words: Sequence[str], results: Path, asked: Asked) -> list[str]:
    """`after=` as terms of sbatch's --dependency, all of which have to hold; none where everything is over already.

    Raises
    ------
    UserError: nothing of that name, what is waited for has failed, or Slurm does not answer
    """
    found: list[str] = []
    for wish in map(parse, words):
        if wish.is_job:
            job = of_job(wish, asked)
            found += [job] if job else []
            continue
        meant = select.loaded(results, [wish.what])
        asked.include(meant)
        states = [(run.id, asked.state(run)) for run in meant]
        found += [term for run, now in states if (term := of_run(wish, run, now))]
    return list(dict.fromkeys(found))


def of_run(wish: Wish, run: str, now: State) -> str:
    """The term for one run in a state; nothing where it imposes none."""
    if now.kind == "unknown":
        raise UserError(
            f"after={wish.what}: cannot tell whether {run} is active ({now.why})",
            "what to wait for depends on it",
            "the same command when Slurm answers again, or on the host that runs it",
            code=4,
        )
    if now.kind in state.ACTIVE and ":" in now.job:
        raise UserError(
            f"after={wish.what}: {run} runs on this machine ({now.job})",
            "Slurm cannot wait for what it does not run",
            "the same command when it has ended",
        )
    if now.kind in state.ACTIVE and now.job:
        return f"{wish.how}:{now.job}"
    if now.kind == "done" or (wish.how == "afterany" and now.kind not in ("frozen", "damaged")):
        return ""
    raise UserError(
        f"after={wish.what}: {run} is {now.kind}" + (f" ({now.why})" if now.why else ""),
        f"it is not in the queue ({state.MEANING[now.kind][0]}), so it would be waited for in vain",
        f"nano-exp retry {run} first" + ("" if now.kind == "frozen" else f"; or after=afterany:{wish.what}"),
    )


def of_job(wish: Wish, asked: Asked) -> str:
    """The term for a Slurm job that was named by its number."""
    number, _, task = wish.what.partition("_")
    queue = asked()
    term = f"{wish.how}:{wish.what}"
    if queue is not None and queue.find(number, int(task) if task else None) is not None:
        return term
    ended = slurm.accounting([wish.what]).get(wish.what)
    kind = ended.state.split()[0] if ended else ""
    if kind == "COMPLETED" or (kind in IN_VAIN and wish.how == "afterany"):
        return ""
    if ended is not None and kind in IN_VAIN:
        raise UserError(
            f"after={wish.what}: that job has ended as {ended.state}, exit code {ended.exit_code}",
            "it would be waited for in vain",
            f"another job, or after=afterany:{wish.what}",
        )
    try:
        slurm.control(wish.what)  # another user's job, or one that has just ended
    except slurm.NoAnswer as error:
        raise UserError(
            f"after={wish.what}: {error}",
            "Slurm starts at once what waits for a job that it does not know",
            "a run's id, or a job that squeue --all shows",
        ) from error
    return term


def option(*terms: str) -> list[str]:
    """sbatch's option for terms that all have to hold; none without terms."""
    return [f"--dependency={','.join(terms)}"] if terms else []
