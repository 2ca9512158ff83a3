"""`init_from=` and `fork_from=`: from what was typed to one checkpoint, which fits the run that starts from it.

Of a run that has not ended yet `init_from=` stays open: the word is frozen, and the checkpoint is found when it is due.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import engines, files
from nano_exp.engines import Context, checkpoints
from nano_exp.engines.origin import FORK, INIT, Origin
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.index import selection
from nano_exp.store import identity, runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Run

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Looking:
    """What is known while the points of one launch are frozen.

    Parameters
    ----------
    planned: name/id -> the config, with its own paths, of runs that this very launch makes or sends again
    found: what was found for a key and a word, once for all points
    """

    planned: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    found: dict[tuple[str, str, Path], tuple[Origin, dict[str, Any]]] = field(default_factory=dict)


_LOOKING: ContextVar[Looking | None] = ContextVar("looking", default=None)


@contextmanager
def looking(planned: Mapping[str, dict[str, Any]] | None = None) -> Iterator[None]:
    """Look at each source once, and at these runs as if they were in the store and under way."""
    around = _LOOKING.get() or Looking()
    token = _LOOKING.set(Looking({**around.planned, **(planned or {})}))
    try:
        yield
    finally:
        _LOOKING.reset(token)


def planned() -> Mapping[str, dict[str, Any]]:
    """name/id -> config of the runs that are looked at as if they were under way."""
    return (_LOOKING.get() or Looking()).planned


def settled(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A resolved config whose `init_from` or `fork_from` says which checkpoint is meant; without them where none is.

    Parameters
    ----------
    folder: the launch folder, against which a path is made absolute

    Raises
    ------
    UserError: no such run or checkpoint, or one that does not fit
    """
    typed = {key: config[key] for key in (INIT, FORK) if config.get(key) is not None}
    config = {key: value for key, value in config.items() if key not in (INIT, FORK)}
    if not typed:
        return config
    engine, frozen = engines.get(config["engine"]["name"]), {}
    results = Path(config["run"]["results"])
    for key, word in typed.items():
        origin, source = find(key, str(word), results, folder)
        if origin.is_open:
            _require_slurm(config, origin)
        engine.fits(config, origin, source)
        frozen[key] = origin.frozen
    return _as_launched_before({**config, **frozen}, str(typed.get(INIT) or ""))


def find(key: str, word: str, results: Path, folder: Path) -> tuple[Origin, dict[str, Any]]:
    """The origin that is meant, and its config; nothing of a folder that has none. Raises UserError."""
    known = (_LOOKING.get() or Looking()).found
    if (key, word, results) not in known:
        known[key, word, results] = _find(key, word, results, folder)
    return known[key, word, results]


def _find(key: str, word: str, results: Path, folder: Path) -> tuple[Origin, dict[str, Any]]:
    path = (folder / Path(word).expanduser()).resolve()
    if word.startswith(("/", "./", "../", "~")) or (path.is_dir() and "@" not in word):
        return _of_folder(key, word, path)
    name, _, step = word.partition("@")
    if name in planned():
        return _open(key, name, step, results / name, planned()[name]), planned()[name]
    run = selection.one(results, name)
    config = config_of(run)
    saved = checkpoint_folder(run, config)
    now = _state(key, word, run)
    there = step.isdecimal() and int(step) in checkpoints.whole(saved)
    if key == INIT and now.kind in state.ACTIVE and not there:
        return _open(key, f"{run.name}/{run.id}", step, run.dir, config), config
    if now.kind != "done" and not checkpoints.whole(saved):
        why = f" ({now.why})" if now.why else ""
        again = f"nano-exp retry {selection.word(run)}, and then this again"
        raise UserError(
            f"{key}={word}: {run.name}/{run.id} is {now.kind}{why}, and has saved no checkpoint",
            "its weights are read from one",
            "the same command once it has saved one" if now.kind in state.ACTIVE else again,
        )
    chosen = checkpoints.choose(saved, step or checkpoints.LAST, config.get("checkpointing") or {}, f"{key}={name}@")
    return Origin(key, f"{run.name}/{run.id}", chosen, saved / f"step_{chosen}"), config


def _state(key: str, word: str, run: Run) -> state.State:
    """The source's state. Raises UserError where Slurm does not say."""
    if state.is_done(runs.attempts(run.dir)):
        return state.State("done")
    lookup = QueueLookup()
    now = lookup.state(run)
    if now.kind == "unknown" and lookup.error:
        raise UserError(
            f"{key}={word}: cannot tell whether {run.name}/{run.id} is active ({lookup.error})",
            "whether there is something to wait for depends on it",
            "the same command when Slurm answers again",
            code=4,
        )
    return now


def _open(key: str, name: str, step: str, run_dir: Path, config: Mapping[str, Any]) -> Origin:
    """The origin of a run that has not ended. Raises UserError for a step that it will not have at its end."""
    if key == FORK:
        raise UserError(
            f"{key}={name}@{step}: that run has not ended", "a fork copies a checkpoint that is there", f"{INIT}={name}"
        )
    word = step or checkpoints.LAST
    if (config.get("checkpointing") or {}).get("enabled") is False:
        raise UserError(
            f"{key}={name}@{word}: that run saves no checkpoint",
            "its weights are read from one",
            "a source without checkpointing.enabled=false",
        )
    if not word.isdecimal():
        if word not in (checkpoints.BEST, checkpoints.LAST):
            raise UserError(f"{key}={name}@{word}", "a step is a number, best or last", f"{key}={name}@last")
        _require_metric(key, name, word, config)
        return Origin(key, name, word, run_dir)
    _require_saved(key, name, int(word), config)
    return Origin(key, name, int(word), run_dir)


def _require_metric(key: str, name: str, word: str, config: Mapping[str, Any]) -> None:
    """Refuse `best` of a run that will have no checkpoint with a value to be the best by."""
    if word != checkpoints.BEST:
        return
    saving, grpo = config.get("checkpointing") or {}, config["grpo"]
    metric, last = str(saving.get("metric_name") or ""), int(grpo["max_num_steps"])
    saved, validated = (int(one or 0) for one in (saving.get("save_period"), grpo.get("val_period")))
    together = math.lcm(saved, validated)  # 0 where one of them never comes
    at_end = bool(grpo.get("val_at_end")) or bool(validated and last % validated == 0)
    if not metric:
        why = "its checkpointing.metric_name is null"
    elif not metric.startswith("train:") and not at_end and not 0 < together <= last:
        why = f"in its {last} steps it saves every {saved} and validates every {validated}, never at the same one"
    else:
        return
    raise UserError(
        f"{key}={name}@best: no checkpoint of that run will have a value to be the best by", why, f"{key}={name}@last"
    )


def _require_saved(key: str, name: str, step: int, config: Mapping[str, Any]) -> None:
    """Refuse a step that a run will not save, or may have removed by its end."""
    saving, last = config.get("checkpointing") or {}, int(config["grpo"]["max_num_steps"])
    period, keep = int(saving.get("save_period") or 0), saving.get("keep_top_k")
    if step != last and (step > last or not period or step % period or keep is not None):
        removes = keep is not None and step < last and period and not step % period
        raise UserError(
            f"{key}={name}@{step}: that run has not ended, and has no step_{step}",
            f"it keeps its best {keep} and its last one (checkpointing.keep_top_k)"
            if removes
            else f"it saves every {period} steps, and the last, {last}",
            f"{key}={name}@last, {key}={name}@best, or the same once that step is there",
        )


def _require_slurm(config: Mapping[str, Any], origin: Origin) -> None:
    """On this machine nothing waits but the links of a chain."""
    if config["slurm"]["where"] == "local" and origin.run not in planned():
        raise UserError(
            f"{INIT}={origin.typed}: that run has not ended, and slurm.where=local",
            "runs on this machine do not wait for others",
            "the same command when it has ended, or both as one chain: nano-exp chain --help",
        )


def _as_launched_before(config: dict[str, Any], word: str) -> dict[str, Any]:
    """The config with the word in the step's place, where the store has such a run: it was launched while its source
    was under way, and is the same one now that the source has ended."""
    section = config.get(INIT) or {}
    step = word.partition("@")[2] or checkpoints.LAST
    if not section.get("run") or step not in (checkpoints.BEST, checkpoints.LAST):
        return config
    results = Path(config["run"]["results"])
    waiting = Origin(INIT, section["run"], step, results / section["run"])
    before = {**config, INIT: waiting.frozen}
    there = results / str(config["run"]["name"]) / identity.run_id(identity.digest(before))
    return before if there.is_dir() else config


def config_of(run: Run) -> dict[str, Any]:
    """A run's frozen config. Raises UserError where it cannot be read."""
    try:
        return run.config()
    except (Damaged, OSError) as error:
        raise UserError(f"{run.dir / CONFIG}: {error}", "it says which model the run trained", "another run") from error


def checkpoint_folder(run: Run, config: Mapping[str, Any]) -> Path:
    """Where a run's step_N lie."""
    ctx = Context(run.dir, run.dir, 0, run.dir / CONFIG)
    return engines.get(str(config["engine"]["name"])).checkpoint_folder(dict(config), ctx)


def _of_folder(key: str, word: str, path: Path) -> tuple[Origin, dict[str, Any]]:
    if not path.is_dir():
        raise UserError(f"{key}={word}", f"there is no folder {path}", f"{key}=RUN@best, or the path of a checkpoint")
    try:
        config = files.read_yaml(path / CONFIG)
    except (Damaged, OSError):
        config = None
    _, _, step = path.name.partition("step_")
    return Origin(key, None, int(step) if step.isdigit() else None, path), config if isinstance(config, dict) else {}
