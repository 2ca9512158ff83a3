"""Checkpoints that other runs of a store are still to start from: of `init_from=` and `fork_from=`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.compose import origins
from nano_exp.engines import checkpoints
from nano_exp.engines.origin import FORK, INIT
from nano_exp.errors import UserError
from nano_exp.index import selection
from nano_exp.index.cache import Cache
from nano_exp.index.overview import Facts
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Run

#: Of these nothing starts again by itself or with `nano-exp retry`.
OVER = ("done", "ended early")


@dataclass(frozen=True)
class Need:
    """A run that is still to start from a checkpoint.

    Parameters
    ----------
    run: name/id of it
    who: the same with its state, in words
    source: name/id; None of a checkpoint that was named by its path
    step: of an open origin it may be `best` or `last`
    path: the step_N, or what was named in it
    """

    run: str
    who: str
    source: str | None
    step: int | str | None
    path: Path

    def is_of(self, run: Run, folder: Path, step: int, best: int | None, last: int) -> bool:
        """Whether it is this checkpoint.

        Parameters
        ----------
        folder: of the run's checkpoints
        best, last: the run's
        """
        if self.source == f"{run.name}/{run.id}":
            return {checkpoints.BEST: best, checkpoints.LAST: last}.get(str(self.step), self.step) == step
        return self.path.is_relative_to(folder / f"step_{step}")


def needs(results: Path) -> list[Need]:
    """What the runs of a store are still to start from. Of a failed or cancelled one too: it may be tried again."""
    facts_of = [facts for facts in Cache(results).get(selection.folders(results)) if _origins(facts)]
    lookup = QueueLookup()
    lookup.include(facts.run for facts in facts_of)
    found = []
    for facts in facts_of:
        now = lookup.state(facts.run)
        if now.kind in OVER:
            continue
        for key, origin in _origins(facts).items():
            if not _has_begun(facts, key):
                who = f"{selection.word(facts.run)} ({now.kind}) {'goes on' if key == FORK else 'starts'} from it"
                run = f"{facts.run.name}/{facts.run.id}"
                found.append(Need(run, who, origin.get("run"), origin.get("step"), Path(str(origin.get("path")))))
    return found


def of(every: Sequence[Need], run: Run, folder: Path, steps: Sequence[int], best: int | None) -> dict[int, str]:
    """Step -> who needs it, of a run's checkpoints."""
    last = max(steps, default=0)
    who = {step: [need.who for need in every if need.is_of(run, folder, step, best, last)] for step in steps}
    return {step: "; ".join(dict.fromkeys(words)) for step, words in who.items() if words}


def _origins(facts: Facts) -> dict[str, Mapping[str, Any]]:
    """Key -> what run.json says of it, or the event in which an open one was settled."""
    record = {key: facts.run.record.get(key) for key in (INIT, FORK)}
    found = facts.run.last("origin")
    if found is not None:
        record[str(found.data.get("key"))] = found.data
    return {key: origin for key, origin in record.items() if isinstance(origin, Mapping)}


def _has_begun(facts: Facts, key: str) -> bool:
    """Whether a run needs its source no more: a fork has a copy, and the embedded engine goes on from its own. NeMo RL
    reads the source at each start: it is the reference policy."""
    if not facts.attempts:
        return False
    try:
        config = origins.config_of(facts.run)
        own = key == FORK or config["engine"]["name"] == "embedded"
        return own and bool(checkpoints.whole(origins.checkpoint_folder(facts.run, config)))
    except (UserError, OSError, KeyError, TypeError):
        return False
