"""What of a run's files nothing needs any more: torn checkpoints, those beside the best and the last, logged rollouts.

Only looks. Links are never followed, and nothing outside of the folders that are this run's alone counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import engines
from nano_exp.dotted import Config
from nano_exp.engines import Context, checkpoints
from nano_exp.files import Damaged
from nano_exp.launch import needed
from nano_exp.launch.needed import Need
from nano_exp.store import runs
from nano_exp.store.runs import Run

BEST, LAST, ALL = "best", "last", "all"
UNREADABLE = "its training_info.json cannot be read"
#: Kinds of what can be freed, in the order in which they are shown.
CHECKPOINT, TORN, REMAINS, ROLLOUTS, RESPONSES = "checkpoint", "torn", "remains", "rollouts", "responses"
#: What `clean` has set aside before it removes it.
ASIDE = ".removed-"
#: A line for each rollout of a step, with its tokens and their probabilities (grpo.py, log_batched_dict_as_jsonl).
_ROLLOUTS = re.compile(r"(train|val)_data_step\d+\.jsonl")
#: W&B's copy of NeMo Gym's whole answers (experience/rollouts.py, full_result).
_RESPONSES = re.compile(r".*full_result.*\.table\.json")


@dataclass(frozen=True)
class Item:
    """One thing that can be freed.

    Parameters
    ----------
    size: bytes that its removal gives back
    files: how many files that is
    inode: of the path itself, so that what takes its place is not taken for it
    changed: unix time of the newest change in it
    """

    kind: str
    path: Path
    size: int
    files: int
    inode: int
    changed: float


@dataclass
class Freeable:
    """What one run has to free, and what stays.

    Parameters
    ----------
    attempt: the number of its newest attempt when it was looked at
    kept: step -> why that checkpoint stays
    notes: what was left alone for a reason that the user may want to know
    best: the step of the best checkpoint, whether it stays or not
    """

    run: Run
    attempt: int
    items: list[Item] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    best: int | None = None

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    @property
    def files(self) -> int:
        return sum(item.files for item in self.items)


def needed_by(one: Freeable, needs: Sequence[Need]) -> dict[int, str]:
    """Step -> which other run is still to start from it, of the checkpoints that would go."""
    going = [item for item in one.items if item.kind == CHECKPOINT]
    if not going:
        return {}
    steps = [*one.kept, *(step_of(item) for item in going)]
    return needed.of(needs, one.run, going[0].path.parent, steps, one.best)


def step_of(item: Item) -> int:
    """Of a whole checkpoint."""
    return int(item.path.name.removeprefix("step_"))


def attempt_number(run_dir: Path) -> int:
    """Of the newest attempt; 0 before the first."""
    return max((attempt.number for attempt in runs.attempts(run_dir)), default=0)


def of_run(run: Run, keep: Collection[str], logs: bool, needs: Sequence[Need] = ()) -> Freeable:
    """What a run that is not active has to free.

    Parameters
    ----------
    keep: which whole checkpoints stay beside the last one: best, all, or numbers of steps
    logs: whether logged rollouts count
    needs: what other runs are still to start from
    """
    found = Freeable(run, attempt_number(run.dir))
    try:
        config = run.config()
        _require_own_place(run, config)
        _checkpoints(found, config, keep, needs)
        if logs:
            _logs(found, Path(str(Config(config).section("logger").get("log_dir") or run.dir / "logs")))
    except (Damaged, OSError, _LeftAlone, KeyError, TypeError, AttributeError) as error:
        found.items.clear()
        found.notes.append(str(error) or type(error).__name__)
    return found


class _LeftAlone(Exception):
    """Why nothing of a run may be freed."""


def _require_own_place(run: Run, config: dict[str, Any]) -> None:
    """A run's config names its folders by their whole paths: those of a copy are another run's."""
    written = str(Config(config).section("run").get("dir") or "")
    if written and Path(written).resolve() != run.dir.resolve():
        raise _LeftAlone(f"it was copied or moved here: its config names the checkpoints of {written}")


def _own(run: Run, folder: Path) -> Path | None:
    """The folder where it is there and is the run's alone; None where there is none. Raises _LeftAlone for others."""
    if folder.is_symlink():
        raise _LeftAlone(f"{folder} is a link, and links are not followed")
    if not folder.is_dir():
        return None
    inside = folder.is_relative_to(run.dir)
    if inside and not folder.resolve().is_relative_to(run.dir.resolve()):
        raise _LeftAlone(f"a link on the way to {folder} leads out of the run's folder")
    if not inside and folder.parts[-2:] != (run.name, run.id):
        raise _LeftAlone(f"{folder} is not this run's alone")
    return folder


# --- checkpoints ----------------------------------------------------------------------------------------------------


def _checkpoints(found: Freeable, config: dict[str, Any], keep: Collection[str], needs: Sequence[Need]) -> None:
    run = found.run
    engine = engines.get(str(Config(config).section("engine").get("name")))
    ctx = Context(run.dir, run.dir, 0, run.dir / "config.yaml")
    folder = _own(run, engine.checkpoint_folder(config, ctx))
    if folder is None:
        return
    torn = [(TORN, path) for path in [*checkpoints.torn(folder), *folder.glob("damaged_step_*")]]
    aside = [(REMAINS, path) for path in sorted(folder.glob(f"{ASIDE}*"))]
    steps, last = checkpoints.whole(folder), engine.last_step(config, ctx)
    settings = Config(config).section("checkpointing")
    found.kept = _kept(found, settings, folder, steps, last, keep)
    found.best = checkpoints.ranked(folder, settings.values)
    for step, who in needed.of(needs, run, folder, steps, found.best).items():
        found.kept.setdefault(step, who)
    spare = [(CHECKPOINT, folder / f"step_{step}") for step in steps if step < last and step not in found.kept]
    for kind, path in [*spare, *torn, *aside]:
        if path.is_symlink():
            found.notes.append(f"{path} is a link, and links are not followed")
        else:
            found.items.append(_item(kind, path))


def _kept(
    found: Freeable, settings: Config, folder: Path, steps: list[int], last: int, keep: Collection[str]
) -> dict[int, str]:
    """Step -> why that checkpoint stays."""
    if ALL in keep:
        return dict.fromkeys(steps, "--keep all")
    infos = checkpoints.infos(folder, steps)
    kept = {step: UNREADABLE for step in steps if step not in infos}
    last = max((step for step in infos if step <= last), default=last)
    if last:
        kept[last] = LAST
    kept |= {step: "--keep" for step in steps if str(step) in keep and step not in kept}
    metric = str(settings.get("metric_name") or "")
    if BEST in keep and metric:
        best = checkpoints.best(infos, metric, settings.get("higher_is_better") is not False)
        if best is not None:
            said = f"best: {metric} {infos[best][metric]:.4g}"
            kept[best] = f"{said}, {LAST}" if best == last else said
        elif len(steps) > 1:
            found.notes.append(
                f"no checkpoint has {metric} (checkpointing.metric_name), so that the best is not known and all stay; "
                "--keep last keeps the newest alone"
            )
            return dict.fromkeys(steps, "the best is not known")
    return kept


# --- logged rollouts ------------------------------------------------------------------------------------------------


def _logs(found: Freeable, folder: Path) -> None:
    """What is logged of every rollout: files of NeMo RL's own, and the tables that W&B was given."""
    if _own(found.run, folder) is None:
        return
    sent = found.run.last("synced")
    for experiment in sorted(path for path in folder.glob("exp_*") if path.is_dir() and not path.is_symlink()):
        files = [path for path in _below(experiment, 1) if _ROLLOUTS.fullmatch(path.name)]
        found.items += [_item(ROLLOUTS, path) for path in files]
        unsent = 0
        for path in _below(experiment / "wandb"):
            offline = next((part for part in path.parts if part.startswith("offline-run-")), "")
            if not _RESPONSES.fullmatch(path.name):
                continue
            item = _item(RESPONSES, path)
            if offline and (sent is None or sent.time < item.changed):
                unsent += 1
            else:
                found.items.append(item)
        if unsent:
            found.notes.append(f"{unsent} of W&B's tables are not sent yet and stay: nano-exp sync sends them")


# --- the disk -------------------------------------------------------------------------------------------------------


def _below(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Files below a folder, `depth` levels deep or all; links are left out."""
    for here, folders, names in os.walk(folder):  # does not follow links
        folders.sort()
        if depth and len(Path(here).relative_to(folder).parts) >= depth - 1:
            folders.clear()
        yield from (path for name in sorted(names) if not (path := Path(here) / name).is_symlink())


def _item(kind: str, path: Path) -> Item:
    """A file or a folder with what its removal gives back: of a file with other names elsewhere, nothing."""
    own = path.lstat()
    every = [*_stats(path)] if path.is_dir() else [own]
    links: dict[tuple[int, int], list[os.stat_result]] = {}
    for stat in every:
        links.setdefault((stat.st_dev, stat.st_ino), []).append(stat)
    size = sum(same[0].st_size for same in links.values() if len(same) >= same[0].st_nlink)
    return Item(kind, path, size, len(every), own.st_ino, max(stat.st_mtime for stat in [own, *every]))


def _stats(folder: Path) -> Iterable[os.stat_result]:
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                yield (Path(here) / name).lstat()
            except OSError:  # it went away meanwhile
                continue
