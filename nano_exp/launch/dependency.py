"""What a launch has to wait for: `after=` as Slurm's dependencies.

    after=RUN                 a run's id, or a name: all of its runs. They have to end as done
    after=JOB                 a Slurm job or array task that is no run: it has to end with exit code 0
    after=afterany:RUN        however it ends
    'after=[RUN,afterany:JOB]'    all of them

A run that is done imposes nothing. One that has ended otherwise would be waited for in vain, and is refused. The open
`init_from=` of a run asks for the same without being typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp import files, slurm
from nano_exp.engines import origin as origins
from nano_exp.engines.origin import INIT
from nano_exp.errors import UserError
from nano_exp.index import selection
from nano_exp.store import packed, predecessors, runs, state
from nano_exp.store.predecessors import IN_VAIN, Dependant, Wait
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Run
from nano_exp.store.state import State


@dataclass(frozen=True)
class Wish:
    """One word of `after`: how (afterok, afterany), and what is meant.

    Parameters
    ----------
    key: by which key it is asked for
    """

    how: str
    what: str
    key: str = "after"

    def __str__(self) -> str:
        return f"{self.key}={self.what}"

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


@dataclass(frozen=True)
class After:
    """`after=` against the store and the queue.

    Parameters
    ----------
    terms: of sbatch's --dependency, all of which have to hold; none where everything is over already
    waits: what they stand for, for the launch's folder; not what is over
    sources: of them the runs that others start from, by their open `init_from=`
    packed: of them the runs that share an allocation, whose end is waited for
    """

    terms: tuple[str, ...] = ()
    waits: tuple[Wait, ...] = ()
    sources: tuple[str, ...] = ()
    packed: tuple[str, ...] = ()


def after(words: Sequence[str], results: Path, lookup: QueueLookup, sources: Sequence[str] = ()) -> After:
    """What these words mean now.

    Parameters
    ----------
    sources: name/id of runs whose weights are waited for

    Raises
    ------
    UserError: nothing of that name, what is waited for has failed, or Slurm does not answer
    """
    waits: list[Wait] = []
    waited: list[tuple[str, Run, State]] = []
    jobs: list[str] = []
    wishes = [*(Wish("afterok", source, INIT) for source in sources), *map(parse, words)]
    for wish in wishes:
        if wish.is_job:
            job = of_job(wish, lookup)
            jobs += [job] if job else []
            waits += [Wait(wish.how, job=wish.what)] if job else []
            continue
        meant = _meant(results, wish)
        lookup.include(meant)
        for run, now in [(run, lookup.state(run)) for run in meant]:
            waits += [Wait(wish.how, run=f"{run.name}/{run.id}")] if imposes(wish, run, now) else []
            waited.append((predecessors.how(wish.how, run), run, now))
    open_sources = tuple(source for source in sources if any(wait.run == source for wait in waits))
    shared = tuple(run.id for _, run, now in waited if now.kind in state.ACTIVE and state.is_packed(run))
    return After(tuple(dict.fromkeys([*jobs, *_terms(waited)])), tuple(dict.fromkeys(waits)), open_sources, shared)


def sources_of(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """name/id of the runs whose weights these wait for, each once."""
    found = (origins.of(config, INIT) for config in configs)
    return list(dict.fromkeys(origin.run for origin in found if origin and origin.is_open and origin.run))


def _meant(results: Path, wish: Wish) -> list[Run]:
    """The runs of a name, or the one run of an id. Raises UserError where an id is that of several."""
    meant = selection.loaded(results, [wish.what])
    if len(meant) > 1 and wish.what not in {run.name for run in meant}:
        words = [f"{run.name}/{run.id}" for run in meant]
        raise UserError(
            f"after={wish.what}: that is {len(meant)} runs, {', '.join(words[:6])}",
            "an id means one run, and a name all of its runs",
            f"after={words[0]}, or 'after=[{words[0]},{words[1]}]' for both",
        )
    return meant


def _terms(waited: Sequence[tuple[str, Run, State]]) -> list[str]:
    """The terms for runs by their jobs: an array as a whole where all of its tasks are waited for.

    Slurm drops what waits for a single array task when that one is cancelled; not so for a whole array.
    """
    tasks = cache(_tasks)
    jobs = {(how, now.job) for how, _, now in waited}
    terms = []
    for how, run, now in waited:
        if now.kind in state.ACTIVE:
            number, _, task = now.job.partition("_")
            sent = state.submission(run) if task else None
            count = tasks(runs.launch_dir(run.results, sent.launch), sent.array) if sent is not None else None
            whole = count is not None and all((how, f"{number}_{i}") in jobs for i in range(count))
            terms.append(f"{how}:{number if whole else now.job}")
    return terms


def _tasks(launch_dir: Path, array: int) -> int | None:
    """How many tasks an array of a launch has; None where its manifest does not say."""
    try:
        return packed.tasks(files.read_json(launch_dir / "manifest.json")["arrays"][array])
    except (files.Damaged, OSError, KeyError, IndexError, TypeError):
        return None


def imposes(wish: Wish, run: Run, now: State) -> bool:
    """Whether there is something to wait for in a run that is in this state; raises UserError where it is in vain."""
    word = f"{run.name}/{run.id}"
    if now.kind == "unknown":
        raise UserError(
            f"{wish}: cannot tell whether {word} is active ({now.why})",
            "what to wait for depends on it",
            "the same command when Slurm answers again, or on the host that runs it",
            code=4,
        )
    if now.kind in state.ACTIVE and ":" in now.job:
        raise UserError(
            f"{wish}: {word} runs on this machine ({now.job})",
            "Slurm cannot wait for what it does not run",
            "the same command when it has ended",
        )
    if now.kind in state.ACTIVE:
        return True
    if now.kind == "done" or (wish.how == "afterany" and now.kind not in ("frozen", "damaged")):
        return False
    anyhow = now.kind != "frozen" and wish.key != INIT
    raise UserError(
        f"{wish}: {word} is {now.kind}" + (f" ({now.why})" if now.why else ""),
        f"it is not in the queue ({state.MEANING[now.kind][0]}), so it would be waited for in vain",
        f"nano-exp retry {word} first" + (f"; or after=afterany:{word}" if anyhow else ""),
    )


def of_job(wish: Wish, lookup: QueueLookup) -> str:
    """The term for a Slurm job that was named by its number."""
    number, _, task = wish.what.partition("_")
    queue = lookup()
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


# --- what waits already ----------------------------------------------------------------------------------------------


def renew(results: Path, again: Sequence[Run], lookup: QueueLookup) -> list[str]:
    """Have what came after these runs wait for the jobs that they are in by now. Returns what to say, a line each.

    Parameters
    ----------
    again: only who they are counts; they need not be read
    """
    waiting: dict[tuple[Path, int], list[tuple[Dependant, State]]] = {}
    gone: list[str] = []
    for one in predecessors.dependants(results, again):
        now, sent = lookup.state(one.run), state.submission(one.run)
        if now.kind == "pending" and sent is not None:
            waiting.setdefault((one.launch_dir, sent.array), []).append((one, now))
        elif now.kind in ("unstarted", "cancelled"):
            gone.append(selection.word(one.run))
    lines = [_renewed(results, array, *members[0], lookup, len(members)) for (_, array), members in waiting.items()]
    if gone:
        lines.append(f"came after what is sent now, and left the queue: nano-exp retry {' '.join(gone[:6])}")
    return [line for line in lines if line]


def _renewed(results: Path, array: int, one: Dependant, now: State, lookup: QueueLookup, count: int) -> str:
    """The same for one array, of which this run waits. What Slurm cannot be told, its attempts see for themselves."""
    who = selection.word(one.run) + (f" and {count - 1} more" if count > 1 else "")
    try:
        terms = list(after([wait.word for wait in one.waits], results, lookup).terms)
    except UserError as error:
        return f"{who} waits as before: {error.found}"
    if not terms:
        return ""
    job = now.job.partition("_")[0]
    refusal = slurm.depend(job, [*terms, *_of_its_launch(results, one.launch_dir, array, lookup)])
    return f"{who} looks again when it starts: {refusal}" if refusal else f"{who} waits for {', '.join(terms)} now"


def _of_its_launch(results: Path, launch_dir: Path, array: int, lookup: QueueLookup) -> list[str]:
    """What an array waits for besides: the dependency that was typed, its canary, and the array whose share it gets."""
    terms = []
    try:
        manifest = files.read_json(launch_dir / "manifest.json")
        typed = (manifest["parameters"].get("additional_parameters") or {}).get("dependency")
        behind = runs.jobs_of(results, launch_dir.name).get(manifest["arrays"][array]["behind"])
        terms += [str(typed)] if typed else []
    except (files.Damaged, OSError, KeyError, IndexError, TypeError, AttributeError):
        behind = None
    queue = lookup()
    for how, job in (("afterok", runs.canary_job(results, launch_dir.name)), ("afterany", behind)):
        if job and queue is not None and queue.find(job) is not None:
            terms.append(f"{how}:{job}")
    return terms
