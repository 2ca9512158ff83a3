"""How the runs of a launch become job arrays: their sizes, and how many tasks of each may run at once.

Three limits meet here. Slurm's MaxArraySize caps the index of a task, so that a longer array is cut into chunks that
each start at 0. `parallel=N` holds for the launch, while Slurm's throttle (`--array=0-99%4`) holds for one array: each
array gets a share of N. And a throttle of 0 means none to Slurm, so that an array without a share has to be kept from
starting: it depends on the end of an earlier one, whose share it takes over.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

#: Slurm's own default of MaxArraySize: tasks 0 to 1000.
DEFAULT_LIMIT = 1001
#: Slurm is asked for its limit only for more runs than this.
ASK_ABOVE = 4


def chunks(count: int, limit: int) -> list[range]:
    """`count` runs in as few arrays of at most `limit` tasks as possible, of sizes that differ by one at most."""
    number = -(-count // max(1, limit))
    cuts = [count * i // number for i in range(number + 1)] if number else [0]
    return [range(first, last) for first, last in itertools.pairwise(cuts)]


@dataclass(frozen=True)
class Slot:
    """An array's part in `parallel`: at most `throttle` tasks at once, after array number `behind` has ended."""

    throttle: int
    behind: int | None = None


def slots(parallel: int, sizes: Sequence[int]) -> list[Slot]:
    """Parts for all arrays of a launch, whose sum over those that may run is `parallel` at most.

    With more arrays than `parallel` the first ones get one each, and every other waits for the end of an earlier one:
    Slurm itself then passes the part on, whatever dies.
    """
    if len(sizes) <= parallel:
        return [Slot(throttle) for throttle in fill(parallel, [1] * len(sizes), sizes)]
    return [Slot(1, i - parallel if i >= parallel else None) for i in range(len(sizes))]


def fill(total: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Divide `total` as evenly as each one's bounds allow. The sum of `least` must not be more than `total`."""
    shares = list(least)
    left = total - sum(shares)
    while left > 0:
        hungry = [i for i, have in enumerate(shares) if have < most[i]]
        if not hungry:
            break
        lowest = min(shares[i] for i in hungry)
        for i in [i for i in hungry if shares[i] == lowest][:left]:
            shares[i] += 1
            left -= 1
    return shares


@dataclass(frozen=True)
class Alive:
    """An array that may have tasks running now.

    Parameters
    ----------
    throttle: as Slurm has it; None where it does not show it
    running, waiting: tasks
    """

    job: str
    throttle: int | None
    running: int
    waiting: int


def hand_on(parallel: int, alive: Sequence[Alive], reserved: int = 0) -> list[tuple[str, int]]:
    """(job, new throttle) for the arrays that get another one, in the order in which to tell Slurm: lower ones first.

    No array counts for more than the tasks it has left, so what others no longer need goes to those that have tasks
    waiting. A task that runs counts until Slurm has forgotten it: the sum is at no moment more than `parallel`.

    Parameters
    ----------
    reserved: parts of arrays that are not submitted yet
    """
    known = [a for a in alive if a.throttle is not None and a.waiting]
    others = sum(a.running + a.waiting for a in alive if a not in known)
    least = [max(1, a.running) for a in known]
    if sum(least) > parallel - reserved - others:
        return []
    new = fill(parallel - reserved - others, least, [a.running + a.waiting for a in known])
    changes = [(a.job, to, to - (a.throttle or 0)) for a, to in zip(known, new, strict=True)]
    if not any(more > 0 for _, _, more in changes):
        return []
    return [(job, to) for job, to, more in sorted(changes, key=lambda c: c[2]) if more]


def make_room(parallel: int, alive: Sequence[Alive], reserved: int = 0) -> list[tuple[str, int]] | None:
    """(job, new throttle) for the arrays that have to give up a part, so that one more run may start; None: no room.

    Parameters
    ----------
    alive, reserved: as for `hand_on`, without the run whose place is taken
    """
    known = [a for a in alive if a.throttle is not None and a.waiting]
    others = sum(a.running + a.waiting for a in alive if a not in known)
    left = parallel - reserved - others - 1
    least = [max(1, a.running) for a in known]
    if sum(least) > left:
        return None
    new = fill(left, least, [a.running + a.waiting for a in known])
    return [(a.job, to) for a, to in zip(known, new, strict=True) if to < (a.throttle or 0)]
