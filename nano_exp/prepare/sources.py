"""NeMo RL itself: a checkout of the release that the config is made for, with its submodules."""

from __future__ import annotations

import configparser
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.engines import entry
from nano_exp.nemo_rl import checkout
from nano_exp.prepare import command_line
from nano_exp.prepare.step import MISSING, PARTLY, THERE, Look, Step, locks
from nano_exp.text import Say

URL = "https://github.com/NVIDIA-NeMo/RL.git"


def is_wanted(config: Mapping[str, Any]) -> bool:
    """Whether a config wants a checkout and names none; in a container the image has one."""
    site = config.get("site") or {}
    return not site.get("checkout") and entry.kind(site) == "bare"


@dataclass(frozen=True)
class Checkout(Step):
    """A checkout that every node sees.

    Parameters
    ----------
    release: the tag or branch that --checkout names; empty: none is made
    url: where it is cloned from
    """

    name = "checkout"
    option = "site.checkout="
    release: str = ""
    url: str = URL

    def look(self) -> Look:
        path = self.place.checkout
        if path is None:
            return Look(MISSING, "site.checkout is not set")
        if not path.is_dir():
            return Look(MISSING, f"no folder {path}")
        here = checkout.read_checkout(path)
        commit = f" at {here.commit[:12]}" if here.commit else ""
        wanted = self.place.version.removeprefix("v").partition("+")[0]
        if here.version is None and not (path / "nemo_rl").is_dir():
            return Look(MISSING, f"{path} has no nemo_rl: it is no checkout of NeMo RL")
        if here.version and wanted and here.version != wanted:
            return Look(PARTLY, f"{path} is v{here.version}{commit}, and the config is for {self.place.version}")
        branch = self._branch_commit
        if branch and here.commit and not here.commit.startswith(branch):
            return Look(PARTLY, f"{path} is v{here.version}{commit}, and the config is for {self.place.version}")
        if empty := list(empty_submodules(path)):
            return Look(PARTLY, f"{path}, v{here.version}{commit}, without its submodules {', '.join(empty)}")
        return Look(THERE, f"{path}, v{here.version or '?'}{commit}")

    def command(self) -> str:
        path = self.place.checkout
        if path is not None and (path / "nemo_rl").is_dir():
            return f"git -C {path} {' '.join(_SUBMODULES)}" if any(empty_submodules(path)) else ""
        target = path or Path.cwd() / f"nemo-rl-{self._tag}"
        lines = [f"git clone --branch {self._tag} --recurse-submodules {self.url} {target}"]
        lines += [f"git -C {target} {' '.join(argv)}" for argv in self._to_the_commit()]
        return "\n".join(lines)

    @property
    def _branch_commit(self) -> str:
        """Of a branch that was imported, its commit: the branch has moved on since."""
        return self.place.version.partition("+")[2]

    def _to_the_commit(self) -> list[tuple[str, ...]]:
        return [("checkout", self._branch_commit), _SUBMODULES] if self._branch_commit else []

    def hindered(self) -> str:
        path = self.place.checkout
        if shutil.which("git") is None:
            return "git is not on PATH"
        if path is None:
            return f"--checkout {self._tag} clones it to ./nemo-rl-{self._tag}; or site.checkout=/path/to/RL"
        if (path / "nemo_rl").is_dir():
            if not any(empty_submodules(path)):
                return f"it is yours to change: git -C {path} checkout {self._tag}, or nemo_rl= of its version"
            return ""
        if path.is_dir() and any(path.iterdir()):
            return f"{path} has other files: site.checkout=/another/folder"
        return "" if self.release else f"--checkout {self._tag} clones it there"

    @property
    def _tag(self) -> str:
        version, _, commit = self.place.version.partition("+")
        return self.release or ("main" if commit else version)

    def lock_folder(self) -> Path:
        path = self.place.checkout
        assert path is not None  # it is hindered otherwise
        return locks(path.parent) / path.name

    def make(self, say: Say) -> None:
        """Cloned aside and renamed: a checkout that is there is whole."""
        path = self.place.checkout
        assert path is not None
        if (path / "nemo_rl").is_dir():
            command_line.run(["git", *_SUBMODULES, "--progress"], say, path, {}, self.command())
            return
        aside = path.with_name(f".{path.name}.cloning")
        shutil.rmtree(aside, ignore_errors=True)  # of one that was killed: this is done under the lock
        aside.parent.mkdir(parents=True, exist_ok=True)
        argv = ["git", "clone", "--progress", "--branch", self._tag, "--recurse-submodules", self.url, str(aside)]
        try:
            command_line.run(argv, say, path.parent, {"GIT_TERMINAL_PROMPT": "0"}, self.command())
            for more in self._to_the_commit():
                command_line.run(["git", *more], say, aside, {}, self.command())
            if path.is_dir():
                path.rmdir()  # an empty one
            shutil.rmtree(locks(aside), ignore_errors=True)
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


_SUBMODULES = ("submodule", "update", "--init", "--recursive")


def empty_submodules(path: Path) -> Iterator[str]:
    """The submodules that a checkout names and does not have."""
    names = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        names.read_string("\n".join(line.strip() for line in (path / ".gitmodules").read_text().splitlines()))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return
    for section in names.sections():
        folder = names[section].get("path")
        if folder and not any((path / folder).glob("*")):
            yield folder
