"""How jobs ended, from sacct."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from nano_exp.slurm import client
from nano_exp.slurm.client import NoAnswer
from nano_exp.slurm.squeue import ENDED


@dataclass(frozen=True)
class Ended:
    """A row of sacct: how a job or array task ended. `state` may have more words ("CANCELLED by 1001")."""

    state: str
    exit_code: str
    nodes: str = ""


#: Most jobs that sacct is asked about, the newest: its argument must not become longer than the kernel takes (128 KiB).
MOST_ASKED = 8000
#: What accounting calls a job that was cancelled before Slurm had written its name down.
NAMELESS = "allocation"


def accounting(jobs: Iterable[str], names: Mapping[str, str] | None = None, requeued: bool = False) -> dict[str, Ended]:
    """`12` or `12_3` -> its end as sacct has it, in one call; empty where there is no accounting.

    sacct is asked only to say why: nothing is decided on it alone, so its absence is no error.

    Parameters
    ----------
    names: job -> its name, where known: Slurm uses its numbers again, and another job of that number is not meant
    requeued: an incarnation that was started again counts as an end too (state REQUEUED)
    """
    distinct = sorted(set(jobs))
    if not distinct:
        return {}
    numbers = sorted({int(number) for job in distinct if (number := job.partition("_")[0]).isdigit()})
    ids = ",".join(map(str, numbers[-MOST_ASKED:]))
    try:
        done = client.run(
            ["sacct", "-X", "-n", "-P", "-D", "-j", ids, "--format=JobID,State,ExitCode,NodeList,JobName"]
        )
    except NoAnswer:
        return {}
    ended = ENDED | {"REQUEUED"} if requeued else ENDED
    end_of = parse_accounting(done.stdout if done.returncode == 0 else "", names or {}, ended)
    return {job: end_of[job] for job in distinct if job in end_of}


def parse_accounting(text: str, names: Mapping[str, str], ended: Container[str] = ENDED) -> dict[str, Ended]:
    """Lines of sacct -D, `JobID|State|ExitCode|NodeList|JobName`: each job's newest end, if its name is right.

    Parameters
    ----------
    ended: the states that are an end
    """
    end_of: dict[str, Ended] = {}
    for line in text.splitlines():
        parts = line.split("|", 4)
        if len(parts) < 5 or not parts[1] or parts[1].split()[0] not in ended:
            continue
        job, state, exit_code, nodes, name = parts
        if name in (names.get(job, name), NAMELESS):
            end_of[job] = Ended(state, exit_code, nodes)  # later rows are later incarnations
    return end_of
