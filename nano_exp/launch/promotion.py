"""Runs that go on from a rung because a user says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nano_exp import slurm
from nano_exp.errors import UserError
from nano_exp.index import selection
from nano_exp.job import rung_end
from nano_exp.launch import history, retry, show, submit
from nano_exp.store import runs, state
from nano_exp.store.state import State
from nano_exp.study import book

#: How many runs are named that cannot be promoted.
MOST_SHOWN = 5


def promote(results: Path, selected: Sequence[runs.Run]) -> int:
    """Promote paused runs and send them, within their launches' `parallel`; those that are not paused stay as they are.

    Raises
    ------
    UserError: none of them is paused
    """
    pairs = history.states(selected)
    paused = [run for run, now in pairs if now.kind == "paused"]
    promoted = [run for run, now in pairs if now.kind == "unstarted" and now.why.startswith(state.PROMOTED)]
    if not paused and not promoted:
        raise _none_paused(pairs)
    if left := [pair for pair in pairs if pair[0] not in (*paused, *promoted)]:
        print(f"left alone, not paused: {', '.join(f'{run.id} ({now.kind})' for run, now in left)}")
    by_name: dict[str, list[runs.Run]] = {}
    for run in [*paused, *promoted]:
        by_name.setdefault(run.name, []).append(run)
    again = [run for name, same in by_name.items() for run in _promote(results, name, same)]
    return retry.retry(results, again, []) if again else 0


def _promote(results: Path, name: str, selected: Sequence[runs.Run]) -> list[runs.Run]:
    """The same for runs of one name. Returns those that no array of Slurm's has: a launch of their own sends them."""
    rules = book.read(results, name)
    if rules is None:
        raise UserError(
            f"{book.path(results, name)} is missing",
            f"the rungs of {name} stand there",
            f"its launch once more, which writes it; or nano-exp retry {selection.word(selected[0])} halving=off",
        )
    with submit.lock(results), book.lock(results, name) as held:
        for run in map(runs.load, (run.dir for run in selected)):
            if not book.is_promoted(run, runs.attempts(run.dir)):  # by another's end meanwhile
                book.record(run, rules, runs.rungs_left(run), "by hand", "a user")
        if held and (sent := [run for run in selected if _has_array(run)]):
            try:
                rung_end.send(sent[0], rules, None, None, print)
            except slurm.NoAnswer as error:
                raise UserError(
                    f"promoted, and not sent: {error}",
                    "Slurm does not answer",
                    "nothing: the next run of the study that ends sends it; or the same command later",
                    code=4,
                ) from error
            print(f"\nnext: nano-exp study {name}{show.results_flag(results)}")
            return [run for run in selected if run not in sent]
    return list(selected)


def _has_array(run: runs.Run) -> bool:
    """Whether its launch's array can be sent once more for it."""
    sent = state.submission(run)
    if sent is None or sent.local is not None or sent.by_hand:
        return False
    return (runs.launch_dir(run.results, sent.launch) / f"array-{sent.array}.sbatch").is_file()


def _none_paused(pairs: Sequence[tuple[runs.Run, State]]) -> UserError:
    """What each of these needs instead, by its state."""
    again = [selection.word(run) for run, now in pairs if now.action == "submit"]
    early = [selection.word(run) for run, now in pairs if now.kind == "ended early"]
    fixes = [f"nano-exp retry {' '.join(again)}"] if again else []
    fixes += [f"nano-exp retry {' '.join(early)} stop=off"] if early else []
    states = [f"{selection.word(run)} is {now.kind}" for run, now in pairs[:MOST_SHOWN]]
    more = f" and {len(pairs) - MOST_SHOWN} more" if len(pairs) > MOST_SHOWN else ""
    return UserError(
        ", ".join(states) + more,
        "only a run that its study paused can be promoted",
        " and ".join(fixes) or "nano-exp status --state paused lists those",
    )
