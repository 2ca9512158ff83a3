"""Which runs a command means: by name, by id or its first letters, by name/id, or by Slurm job. Reads no run."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from nano_exp import files, project, text
from nano_exp.errors import UserError, nearest
from nano_exp.files import Damaged
from nano_exp.store import packed, runs

#: A Slurm job or array task.
_JOB = re.compile(r"\d+(_\d+)?")


class Folder(NamedTuple):
    """A run's folder as a listing has it."""

    name: str
    id: str
    path: str
    inode: int
    word: str  # what to type for this run alone: its id, or name/id where another name has a run of that id

    @property
    def dir(self) -> Path:
        return Path(self.path)


def folders(results: Path, names: Collection[str] | None = None) -> list[Folder]:
    """Every run of a results folder, or of some names, by name and id."""
    every = _below(str(results))
    names_below = [(name, _below(path)) for name, path, _ in every if names is None or name in names]
    times = Counter(run for _, below in names_below for run, _, _ in below)
    if names is not None and times:
        for _, path, _ in (one for one in every if one[0] not in names):
            times.update(run for run in times.keys() & files.names(Path(path)) if Path(path, run).is_dir())
    return [
        Folder(name, run, path, inode, run if times[run] == 1 else f"{name}/{run}")
        for name, below in names_below
        for run, path, inode in below
    ]


def word(run: runs.Run) -> str:
    """What to type for this run alone: its id, or name/id where another name has a run of that id."""
    names = [folder for folder in runs.folders(run.results) if (folder / run.id).is_dir()]
    return run.id if len(names) < 2 else f"{run.name}/{run.id}"


def _below(parent: str) -> list[tuple[str, str, int]]:
    """Name, path and inode of the folders in a folder; hidden ones are the store's own."""
    try:
        with os.scandir(parent) as entries:
            return sorted((e.name, e.path, e.inode()) for e in entries if e.name[0] != "." and e.is_dir())
    except OSError:  # not there, not a folder, or closed to us: what cannot be read says nothing
        return []


def closed(results: Path) -> list[str]:
    """The names whose runs cannot be seen, in words: folders of others that are closed to us."""
    return [
        f"{text.relative(folder)} cannot be read (it is {_owner(folder)}'s): its runs are not shown. {OPENED}"
        for folder in runs.folders(results)
        if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
    ]


#: What the owner of a folder types for others to read it.
OPENED = "Its owner can open it: chmod -R g+rX FOLDER"


def _owner(folder: Path) -> str:
    try:
        return folder.owner()
    except (KeyError, OSError):
        return "somebody else"


def select(results: Path, words: Sequence[str]) -> list[Folder]:
    """The runs that are meant, each once; all of them where nothing is wanted.

    Raises
    ------
    UserError: no runs at all, or none of that name, with the nearest one
    """
    words = [word.rstrip("/") for word in words]
    every = folders(results, words or None)
    if words and {folder.name for folder in every} != set(words):  # not all of them are names
        every = folders(results)
    hidden = closed(results) if not every else []
    if hidden:
        raise UserError(f"no runs that can be read in {results}", "; ".join(hidden), "another --results FOLDER")
    if not every:
        raise UserError(
            f"no runs in {results}",
            "status, logs and the rest look in ./results, in NANO_EXP_RESULTS or in --results",
            f"{project.launcher()} makes the first one; elsewhere: --results /path/to/results",
        )
    if not words:
        return every
    chosen: dict[str, Folder] = {}
    for word in words:
        hits = [f for f in every if f.name == word] or [f for f in every if word in (f.id, f"{f.name}/{f.id}")]
        hits = hits or [f for f in every if f.id.startswith(word)]
        if not hits and _JOB.fullmatch(word):
            dirs = of_job(results, word)
            hits = [f for f in every if f.path in dirs]
        if not hits:
            raise _nothing(results, word, every)
        chosen.update({f.path: f for f in hits})
    return list(chosen.values())


def ambiguous(results: Path, words: Sequence[str]) -> dict[str, list[Folder]]:
    """The words that are meant as one run and are several: an id in two names, or its first letters only."""
    hits_of = {word: select(results, [word]) for word in words}
    return {
        word: hits
        for word, hits in hits_of.items()
        if len(hits) > 1 and word.rstrip("/") not in {f.name for f in hits} and not _JOB.fullmatch(word)
    }


def _nothing(results: Path, word: str, every: Sequence[Folder]) -> UserError:
    names = sorted({f.name for f in every})
    if word.replace("_", "").isdigit():
        what, near = f"no run of Slurm job {word}", []
    else:
        what, near = f"no run and no name '{word}'", nearest(word, {*names, *(f.id for f in every)})
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return UserError(
        f"{what} in {results}",
        f"names there: {listed}",
        f"nano-exp status {near[0]}" if near else "nano-exp status",
    )


def one(results: Path, word: str) -> runs.Run:
    """Exactly one run, or a launch's canary. Raises UserError where the word means several."""
    rehearsal = canary_of(results, word)
    if rehearsal is not None:
        return runs.load(rehearsal)
    hits = select(results, [word])
    if len(hits) > 1:
        of_hits = [f.word for f in hits]
        listed = ", ".join(of_hits[:6]) + (", ..." if len(of_hits) > 6 else "")
        raise UserError(
            f"'{word}' stands for {len(hits)} runs: {listed}",
            "this command takes one run",
            f"nano-exp ... {of_hits[0]}",
        )
    return runs.load(hits[0].dir)


def canary_of(results: Path, word: str) -> Path | None:
    """The folder of the newest canary of this id (`r12...-canary`, also after its name) or Slurm job."""
    for launch, path, _ in sorted(_below(str(results / runs.LAUNCHES)), reverse=True):
        for name, below, _ in _below(f"{path}/{runs.CANARY}"):
            for run, folder, _ in _below(below):
                if word in (run, f"{name}/{run}") or word == runs.canary_job(results, launch):
                    return Path(folder)
    return None


def loaded(results: Path, words: Sequence[str]) -> list[runs.Run]:
    """The same runs, read."""
    return [runs.load(folder.dir) for folder in select(results, words)]


def of_job(results: Path, job: str) -> set[str]:
    """Folders of the runs that were sent as this Slurm job or array task; a whole array's where no task is named.

    Slurm uses its numbers again: the newest launch that had this one is meant.
    """
    number, _, task = job.partition("_")
    launches = sorted(_below(str(results / runs.LAUNCHES)), reverse=True)
    for launch, path, _ in launches:
        for array, known in runs.jobs_of(results, launch).items():
            if known != number:
                continue
            try:
                entry = files.read_json(Path(path) / "manifest.json")["arrays"][array]
                sent = packed.members(entry, int(task)) if task else enumerate(entry["runs"])
                return {str(folder) for _, folder in sent}
            except (Damaged, OSError, KeyError, IndexError, TypeError):
                continue
    return set()
