"""Facts of many runs without reading again those that have not changed.

The cache is a file for each name, results/.cache/status-<user id>/<name>.json. It may be deleted at any time, and is
ignored where it is damaged or of another version: the runs' own files are the truth, and their times tell what changed
(overview.signature).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp.index import overview
from nano_exp.index.overview import Facts, Launches, Signature
from nano_exp.index.selection import Folder
from nano_exp.store import axes, runs
from nano_exp.store.axes import Value

#: Another one for another form of the file.
VERSION = 7
#: A file that is changed twice within one tick of its file system's clock has the same time twice, so what changed this
#: shortly before it was read is not kept. Seconds; the coarsest clocks tick once a second.
TICK_S = 2.0
#: A file is written again once this part of its runs was read anew: writing 10,000 takes as long as reading 300.
WORTH = 0.03


class Cache:
    """The facts of one results folder's runs, for one command or for as long as somebody watches."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.folder = results / ".cache" / f"status-{os.getuid()}"
        #: Name -> the facts of its runs; a name that nobody asks for is not read.
        self.of = cache(lambda name: OfName(self.folder / f"{name}.json"))

    def get(self, folders: Iterable[Folder]) -> list[Facts]:
        """The facts of these runs, as their files have them now."""
        launches = Launches(self.results)
        return [self.of(folder.name).get(folder, launches) for folder in folders]

    def save(self, present: Iterable[Folder]) -> None:
        """Write the files that are worth it. Does nothing where the results cannot be written.

        Parameters
        ----------
        present: every run of the names that were looked at; what is known of others of these names is dropped
        """
        by_name: dict[str, list[str]] = {}
        for folder in present:
            by_name.setdefault(folder.name, []).append(folder.id)
        for name, ids in by_name.items():
            self.of(name).save(ids)


class OfName:
    """The facts of one name's runs, with a file that has those of an earlier command."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.time()
        self.read_anew = 0
        self.asked_anew = False
        self._known: dict[str, tuple[Signature, Facts]] = {}
        self._packed: dict[str, list[Any]] = {}
        #: "job name" -> state, exit code and nodes in Slurm's accounting; what has ended does not change
        self.accounting: dict[str, list[str]] = {}
        #: id -> key -> value of its frozen config; only of those that did not set an axis of their sweep
        self._values: dict[str, dict[str, Value]] = {}
        self._load()

    def _load(self) -> None:
        try:
            whole = json.loads(self.path.read_bytes())
            if whole["version"] == VERSION and isinstance(whole["runs"], dict):
                self._packed = whole["runs"]
                self._values = {key: dict(known) for key, known in whole["values"].items()}
                self.accounting = {k: v for k, v in whole["accounting"].items() if [type(w) for w in v] == [str] * 3}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none yet, or damaged: it is written anew

    def get(self, folder: Folder, launches: Launches) -> Facts:
        """The facts of a run, as its files have them now."""
        key = folder.id
        known = self._known.get(key) or self._unpack(key, folder)
        if known is not None and known[0] == overview.signature(folder.path, folder.inode, known[1]):
            facts = known[1]
            if facts.job is None and not facts.done:
                facts.job = overview.job(facts.run, launches)  # written down by sbatch's caller, outside of the run
            return facts
        self.read_anew += 1
        facts = overview.read(folder.dir, launches)
        self._known[key] = overview.signature(folder.path, folder.inode, facts), facts
        return facts

    def _unpack(self, key: str, folder: Folder) -> tuple[Signature, Facts] | None:
        try:
            times, rest, packed = self._packed[key]
            self._known[key] = Signature(times, rest), overview.unpack(folder.dir, packed)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return self._known[key]

    def value(self, facts: Facts, key: str) -> Value:
        """What a run that did not set a key has; "?" where its files do not say. A frozen config never changes."""
        run = facts.run
        values = self._values.setdefault(run.id, {})
        if key not in values:
            from_config = runs.load(run.dir, events=False).value(key)
            if from_config == axes.UNKNOWN:
                return from_config
            values[key] = from_config
            self.read_anew += 1
        return values[key]

    def save(self, keys: Sequence[str]) -> None:
        """Write the file, where that is worth it.

        Parameters
        ----------
        keys: the ids of every run of this name
        """
        if self.read_anew <= len(keys) * WORTH and not self.asked_anew:
            return
        self.read_anew, self.asked_anew = 0, False
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(OSError):
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("w") as file:
                    # The file system's own time at which this began: its clock may be another than this host's.
                    began = os.fstat(file.fileno()).st_mtime - (time.time() - self.began)
                    entries = {key: entry for key in keys if (entry := self._entry(key, began)) is not None}
                    values = {key: self._values[key] for key in keys if self._values.get(key)}
                    whole = {"version": VERSION, "runs": entries, "accounting": self.accounting, "values": values}
                    file.write(json.dumps(whole, separators=(",", ":")))  # json.dump encodes in Python, this in C
                aside.replace(self.path)
            finally:
                aside.unlink(missing_ok=True)

    def _entry(self, key: str, began: float) -> list[Any] | None:
        known = self._known.get(key)
        if known is None:
            return self._packed.get(key)
        signature, facts = known
        if max(signature.times) / 1e9 >= began - TICK_S:
            return None
        return [signature.times, signature.rest, overview.pack(facts)]
