"""The environments of NeMo RL: its driver's, by `uv sync`, and its workers', by its own prefetch_venvs.py."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from nano_exp.errors import UserError
from nano_exp.nemo_rl import caches
from nano_exp.nemo_rl.caches import Cache
from nano_exp.prepare import command_line
from nano_exp.prepare.step import MISSING, PARTLY, THERE, Look, Place, Step, locks
from nano_exp.text import Say

PREFETCH = "nemo_rl/utils/prefetch_venvs.py"
NO_UV = "uv is not on PATH: pip install uv, or a host that has it"
#: What prefetch_venvs.py prints of an environment that it could not make, and ends with 0 all the same.
_FAILED = re.compile(r"^(?:Failed: [1-9]\d*|Error: .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Driver(Step):
    """The environment that `uv run` starts NeMo RL's script in.

    Parameters
    ----------
    python: site.python, which takes its place; empty where it is not set
    """

    name = "driver"
    option = "site.checkout="
    python: str = ""

    def look(self) -> Look:
        if self.python:
            here = shutil.which(str(Path(self.python).expanduser())) is not None
            return Look(THERE if here else MISSING, f"site.python={self.python}{'' if here else ' is not there'}")
        folder = environment(self.place)
        if folder is None or not folder.is_dir():
            return Look(MISSING, f"no {folder}" if folder else "no checkout")
        if not (folder / "bin" / "python").exists() or not list(folder.glob("lib/python*/site-packages/ray")):
            return Look(PARTLY, f"{folder} is not whole: it has no ray")
        return Look(THERE, str(folder))

    def command(self) -> str:
        return "" if self.python else self.place.typed(["uv", "sync"], _checkout(self.place))

    def hindered(self) -> str:
        return "site.python is yours to make" if self.python else by_uv(self.place)

    def lock_folder(self) -> Path:
        return locks(_checkout(self.place)) / "driver"

    def make(self, say: Say) -> None:
        settings = dict(self.place.settings)
        command_line.run(["uv", "sync"], say, _checkout(self.place), settings, self.command())


@dataclass(frozen=True)
class Workers(Step):
    """The environments of the workers that the runs start."""

    name = "workers"
    option = "site.venv_dir="
    cache: caches.Environments

    def look(self) -> Look:
        entries = self.cache.entries()
        lacking = self.cache.lacks([name for name, whole in entries.items() if whole])
        if not lacking:
            return Look(THERE, f"{', '.join(self.cache.workers)} in {self.cache.folder}")
        state = PARTLY if len(lacking) < len(self.cache.workers) else MISSING
        names = ", ".join(words.rpartition(" ")[2] for words in lacking)
        return Look(state, f"{names} {'is' if len(lacking) == 1 else 'are'} not in {self.cache.folder}")

    def command(self) -> str:
        return self.place.typed(["uv", "run", PREFETCH, *self._filters()], _checkout(self.place))

    def _filters(self) -> tuple[str, ...]:
        """v0.5 makes the environments of all workers that it has."""
        return self.cache.workers if self.place.release >= (0, 6) else ()

    def hindered(self) -> str:
        if hindered := by_uv(self.place):
            return hindered
        there = (_checkout(self.place) / PREFETCH).is_file()
        return "" if there else f"{_checkout(self.place)} has no {PREFETCH}: it is no checkout of NeMo RL"

    def caches(self) -> list[Cache]:
        """As runs lock them: none of them makes these meanwhile, and this waits for one that does."""
        return [self.cache]

    def make(self, say: Say) -> None:
        folder = _checkout(self.place)
        settings = {**dict(self.place.settings), "NEMO_RL_VENV_DIR": str(self.cache.folder)}
        printed = command_line.run(["uv", "run", PREFETCH, *self._filters()], say, folder, settings, self.command())
        if failed := _FAILED.findall(printed):
            raise UserError(
                f"{PREFETCH} could not make all environments: {'; '.join(failed[:2])}",
                "it ends with 0 all the same, and a run would build them again with its GPUs idle",
                f"its log, then the same command again; by hand: {self.command()}",
                1,
            )


def environment(place: Place) -> Path | None:
    """The folder that `uv` keeps the checkout's environment in."""
    if place.checkout is None:
        return None
    return place.checkout / dict(place.settings).get("UV_PROJECT_ENVIRONMENT", ".venv")


def by_uv(place: Place) -> str:
    """Why uv cannot make an environment of the checkout here; empty where it can."""
    if place.checkout is None or not (place.checkout / "pyproject.toml").is_file():
        return "it is made in NeMo RL's checkout: that step first"
    return "" if shutil.which("uv") else NO_UV


def _checkout(place: Place) -> Path:
    return place.checkout or Path("/path/to/RL")
