"""What rules know beyond a config: files, the environment, what Slurm said. Each is looked up once for a launch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp.nemo_rl import checkout as nemo_rl_checkout
from nano_exp.nemo_rl import known_keys
from nano_exp.nemo_rl import model_files as weight_files
from nano_exp.preflight.answers import Answers


@dataclass(frozen=True)
class ModelFiles:
    """A model's files on this host.

    Parameters
    ----------
    folder: its snapshot, or the folder it was named by; None when it is not there
    parsers: tool parsers' files in it
    template: the chat template's text; None when it cannot be read
    lacking: the files of its config and weights that are not there, or not whole
    """

    folder: Path | None
    parsers: tuple[str, ...] = ()
    template: str | None = None
    lacking: tuple[str, ...] = ()


@dataclass
class Facts:
    """Facts of one launch.

    Parameters
    ----------
    environ: the environment that a launch from here would hand on
    parameters: hydra.launcher's
    submitting: whether this is a launch and not a look
    answers: what Slurm said; None when it was not asked
    env_names: what env.yaml gives to the attempts beside `environ`
    new: runs of this launch per array that have no folder in the store yet, by (shape, name)
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    submitting: bool = True
    answers: Answers | None = None
    new: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    env_names: frozenset[str] = frozenset()

    @property
    def elsewhere(self) -> bool:
        """Whether this is only a look, from a host where Slurm does not answer: what is about the machine warns."""
        return not self.submitting and self.answers is not None and self.answers.nodes is None

    def __post_init__(self) -> None:
        self.model_files = cache(model_files)
        self.is_file = cache(lambda path: Path(path).is_file())
        self.is_dir = cache(lambda path: Path(path).is_dir())
        self.lines = cache(lines)
        self.file_system = cache(file_system)
        self.disk_free = cache(disk_free)
        self.commit = cache(lambda checkout: nemo_rl_checkout.read_checkout(Path(checkout)).commit)
        self.keys = known_keys.load


def model_files(model: str, hf_home: str | None) -> ModelFiles:
    """What lies on this host for a model."""
    folder = nemo_rl_checkout.snapshot(model, hf_home)
    if folder is None:
        return ModelFiles(None)
    parsers = tuple(sorted(path.name for path in folder.glob(nemo_rl_checkout.PARSER_PATTERN)))
    template = None
    for name in ("chat_template.jinja", "tokenizer_config.json"):  # transformers reads the first where there is one
        try:
            template = (folder / name).read_text()
            break
        except (OSError, UnicodeDecodeError):
            continue
    return ModelFiles(folder, parsers, template, weight_files.lacking(folder))


@dataclass(frozen=True)
class FileSystem:
    """Where a path is mounted."""

    mount: str
    type: str


def file_system(path: str, mounts: str = "/proc/self/mounts") -> FileSystem | None:
    """The file system of a path (of its nearest folder that exists); None where the kernel does not tell."""
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return None
    real = str(existing(path))
    best = None
    for line in lines:
        words = line.split()
        if len(words) < 3:
            continue
        mount = words[1].replace("\\040", " ")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and (best is None or len(mount) >= len(best.mount)):
            best = FileSystem(mount, words[2])
    return best


#: A larger file is not counted, bytes: a launch does not wait for that.
COUNTED = 512 * 1024 * 1024


def lines(path: str) -> int | None:
    """How many lines a file has that are not empty; None where it is not there, or is too large to be read for that."""
    try:
        if Path(path).stat().st_size > COUNTED:
            return None
        with Path(path).open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError:
        return None


def existing(path: str) -> Path:
    """The path, or the nearest folder above it that exists."""
    here = Path(path).expanduser().absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    return here.resolve()


def disk_free(path: str) -> int | None:
    """Bytes free for this user at a path; None when that cannot be told."""
    try:
        return shutil.disk_usage(existing(path)).free
    except OSError:
        return None
