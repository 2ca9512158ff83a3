"""A step: one thing that runs need and that is made once."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nano_exp.nemo_rl import caches
from nano_exp.nemo_rl.caches import Cache
from nano_exp.text import Say

THERE, PARTLY, MISSING, UNKNOWN = "there", "partly", "missing", "unknown"


@dataclass(frozen=True)
class Look:
    """What is there.

    Parameters
    ----------
    state: THERE, PARTLY, MISSING or UNKNOWN
    found: what was found, in words
    """

    state: str
    found: str


@dataclass(frozen=True)
class Place:
    """Where a launch's things lie. Two launches of one place prepare the same.

    Parameters
    ----------
    hf_home: site.hf_home, else HF_HOME, else Hugging Face's default
    checkout: site.checkout, absolute
    version: of NeMo RL, "v0.7.0"
    contained: whether the engine runs inside a container
    settings: what the site gives to the engine's environment
    """

    hf_home: Path
    checkout: Path | None
    version: str
    contained: bool
    settings: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], environ: Mapping[str, str]) -> Place:
        site = config.get("site") or {}
        named = {"HF_HOME": site.get("hf_home"), "NEMO_RL_VENV_DIR": site.get("venv_dir")}
        named |= {"UV_CACHE_DIR": site.get("uv_cache_dir")}
        settings = {name: str(absolute(value)) for name, value in named.items() if value}
        settings |= {str(name): "" if value is None else str(value) for name, value in (site.get("env") or {}).items()}
        home = settings.get("HF_HOME") or environ.get("HF_HOME") or "~/.cache/huggingface"
        checkout = site.get("checkout")
        return cls(
            absolute(home),
            absolute(checkout) if checkout else None,
            str((config.get("nemo_rl") or {}).get("version") or ""),
            (site.get("entry") or "bare") != "bare",
            tuple(settings.items()),
        )

    @property
    def release(self) -> tuple[int, ...]:
        """(0, 7, 0); of a branch its release's."""
        parts = self.version.removeprefix("v").partition("+")[0].split(".")
        return tuple(int(part) for part in parts if part.isdigit())

    def typed(self, argv: Collection[str], folder: Path | None = None) -> str:
        """A command as one types it, with the site's settings before it."""
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.settings)
        line = f"{settings} {shlex.join(argv)}".strip()
        return f"cd {shlex.quote(str(folder))} && {line}" if folder else line


@dataclass(frozen=True)
class Step:
    """One thing that runs need. Equal steps are one.

    Attributes
    ----------
    name: what --only takes
    option: the key that says where it lies
    """

    name: ClassVar[str] = ""
    option: ClassVar[str] = "site.hf_home="
    place: Place

    def look(self) -> Look:
        """What is there of it. Reads; changes nothing."""
        raise NotImplementedError

    def command(self) -> str:
        """What makes it, to type by hand; empty where nothing does."""
        return ""

    def hindered(self) -> str:
        """Why it cannot be made here and now, in words; empty where it can."""
        return ""

    def make(self, say: Say) -> None:
        """Make what is not there; nobody else makes it meanwhile. Raises UserError."""
        raise NotImplementedError

    def caches(self) -> list[Cache]:
        """What is to be locked while it is made."""
        return [_Lock(self, self.lock_folder())]

    def lock_folder(self) -> Path:
        """Where those who make it stand one behind the other: beside what they make."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Lock:
    """A step as something that runs share (nemo_rl/caches.py)."""

    step: Step
    lock: Path
    certain: bool = field(default=True)

    @property
    def what(self) -> str:
        return self.step.name

    def entries(self) -> dict[str, bool]:
        state = self.step.look().state
        return {} if state == MISSING else {self.step.name: state == THERE}

    def lacks(self, whole: Collection[str]) -> list[str]:
        return [] if self.step.name in whole else [f"the {self.step.name}"]

    def busy(self, name: str) -> bool:
        return False

    def mend(self, name: str) -> str:
        return f"{name}: goes on with what is there"


def absolute(path: object) -> Path:
    return Path(str(path)).expanduser().absolute()


def locks(folder: Path) -> Path:
    """Where locks of things in a folder lie."""
    return folder / caches.LOCKS
