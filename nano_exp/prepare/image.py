"""The container's image: a file that every node sees, so that no job fetches it from a registry."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from nano_exp.prepare import command_line
from nano_exp.prepare.step import MISSING, THERE, UNKNOWN, Look, Step, locks
from nano_exp.text import Say, size

#: NeMo RL's own images, by its README: the tag is the release's.
REGISTRY, REPOSITORY = "nvcr.io", "nvidia/nemo-rl"


@dataclass(frozen=True)
class Image(Step):
    """An image that is imported once.

    Parameters
    ----------
    image: site.container.image
    apptainer: whether apptainer runs it, and not pyxis
    """

    name = "image"
    option = "site.container.image="
    image: str
    apptainer: bool

    @property
    def _file(self) -> Path | None:
        """Where it lies, if it is a file; None where it is a registry's name."""
        return Path(self.image).expanduser().absolute() if re.match(r"[/.~]", self.image) else None

    def look(self) -> Look:
        if not self.image:
            return Look(MISSING, "site.container.image is not set")
        if self._file is None:
            return Look(UNKNOWN, f"{self.image} is a registry's name: each job may fetch it; a file would not")
        if not self._file.exists():
            return Look(MISSING, f"no {self._file}")
        return Look(THERE, f"{self._file}, {size(self._file.stat().st_size)}")

    def command(self) -> str:
        return " ".join(self._argv(self._file or Path("/path/to") / f"nemo-rl-{self._tag}{self._ending}"))

    @property
    def _tag(self) -> str:
        return self.place.version.partition("+")[0]

    @property
    def _ending(self) -> str:
        return ".sif" if self.apptainer else ".sqsh"

    def _argv(self, target: Path) -> list[str]:
        if self.apptainer:
            return ["apptainer", "pull", str(target), f"docker://{REGISTRY}/{REPOSITORY}:{self._tag}"]
        return ["enroot", "import", "-o", str(target), f"docker://{REGISTRY}#{REPOSITORY}:{self._tag}"]

    def hindered(self) -> str:
        tool = "apptainer" if self.apptainer else "enroot"
        if not self.image:
            return "site.container.image=/shared/nemo-rl.sqsh says where it is to lie"
        return "" if shutil.which(tool) else f"{tool} is not on this host"

    def lock_folder(self) -> Path:
        assert self._file is not None  # it is not missing otherwise
        return locks(self._file.parent) / self._file.name

    def make(self, say: Say) -> None:
        path = self._file
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.stem}.importing{path.suffix}")
        aside.unlink(missing_ok=True)
        try:
            command_line.run(self._argv(aside), say, path.parent, {}, self.command())
            aside.rename(path)
        finally:
            aside.unlink(missing_ok=True)
