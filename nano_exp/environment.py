"""env.yaml: secrets for the attempts, as a file that only its owner can read.

It is read at launch, to refuse what could not work later, and again by each attempt, which puts its values into its own
environment before the engine's is built. In between only its path is kept, in the launch's manifest. A variable that
the attempt has inherited already stays as it is.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

import yaml

from nano_exp import credentials, project
from nano_exp.errors import UserError

FILE = "env.yaml"
#: Names another file; empty: none at all.
VARIABLE = "NANO_EXP_ENV"
#: In an attempt of this machine: the folders of its PYTHONPATH that the launcher had there, for nano-exp's packages.
PACKAGES = "NANO_EXP_PACKAGES"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORM = "one `NAME: value` a line, as in env.example.yaml"


def find(folder: Path, checkout: Path = project.ROOT) -> Path | None:
    """The file of a launch: $NANO_EXP_ENV, else env.yaml in the launch folder, else beside launch.py; absolute.

    Raises
    ------
    UserError: $NANO_EXP_ENV names a file that is not there
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        if not named:
            return None
        path = folder / Path(named).expanduser()
        if not path.exists():
            raise UserError(
                f"{VARIABLE}={named}",
                "there is no such file",
                f"{VARIABLE}=/path/to/env.yaml, or {VARIABLE}= for no file",
            )
        return path
    return next((path for path in (folder / FILE, checkout / FILE) if os.path.lexists(path)), None)


def read(path: Path) -> dict[str, str]:
    """Names and values, each as it is written: `0123` and `yes` are texts. They are secrets from now on.

    Raises
    ------
    UserError: not there, not its owner's alone, or not a flat mapping; no message shows anything of its content
    """
    values = parse(_text(path), path)
    credentials.remember(values)
    return values


def enter(path: Path, environ: MutableMapping[str, str] | None = None) -> str:
    """Put what a file gives into this process's environment, where a name is not set yet. Returns a line that says so.

    Raises
    ------
    UserError: as `read`
    """
    target = os.environ if environ is None else environ
    values = read(path)
    from_shell = [name for name in values if name in target]
    for name, value in values.items():
        target.setdefault(name, value)
    return summary(path, values, from_shell)


#: Variables that say which service a token is for, and how it is used.
_SERVICES = ("HF_", "HUGGING_FACE_", "WANDB_")


def tokens(environ: Mapping[str, str]) -> list[str]:
    """Names of the variables that sound like secrets and hold something."""
    return sorted(name for name, value in environ.items() if value and credentials.secret_name(name))


def carried(environ: Mapping[str, str]) -> list[str]:
    """Names that a job is to have, whatever else its sbatch passes on: tokens, and what says where they are used."""
    services = (name for name, value in environ.items() if value and name.startswith(_SERVICES))
    return sorted({*tokens(environ), *services})


def require(names: Iterable[str], environ: Mapping[str, str]) -> None:
    """What a launch had has to be in its attempt. Raises UserError."""
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise UserError(
            f"the job has no {', '.join(missing)}, and the launch's environment had",
            "Slurm did not pass the environment on (--export, SBATCH_EXPORT, or a setting of the site's)",
            "in env.yaml (chmod 600) the job finds it by itself; then launch again. Whatever the run does not need, "
            "unset before the launch",
        )


def summary(path: Path, names: Iterable[str], inherited: Iterable[str]) -> str:
    """Which names a file gives, and which of them the environment has already."""
    from_shell = sorted(inherited)
    from_file = ", ".join(sorted(set(names) - set(from_shell))) or "nothing"
    return f"{path} gives {from_file}" + (
        f"; set in the environment, which wins: {', '.join(from_shell)}" if from_shell else ""
    )


def _text(path: Path) -> str:
    """The file's text, once it is known to be ours alone: the open file is asked, not its name."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not be waited for
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        _require_private(path, os.fstat(file))
        with os.fdopen(os.dup(file), encoding="utf-8") as text:
            return text.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", "its values become environment variables", _FORM) from None
    finally:
        os.close(file)


def _unreadable(path: Path, error: OSError) -> UserError:
    missing = isinstance(error, FileNotFoundError)
    return UserError(
        f"{path} is not there (any more)" if missing else f"{path} cannot be read: {error.strerror}",
        "the launch was made with it, and the engine needs what it gives",
        "bring it back, where the nodes see it too (chmod 600), then the same launch again or nano-exp retry; "
        f"{VARIABLE}=/other/env.yaml names another",
    )


def _require_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file", "secrets are read from a file of your own", _FORM)
    if status.st_uid != os.geteuid():
        raise UserError(
            f"{path} belongs to user {status.st_uid}, and you are user {os.geteuid()}",
            "whoever owns it can read your secrets and decides what your runs get",
            f"a copy of your own: {VARIABLE}=/path/to/your/env.yaml",
        )
    if status.st_mode & 0o077:
        raise UserError(
            f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            "it holds secrets, and its group or everybody may read or change it",
            f"chmod 600 {shlex.quote(str(path))}",
        )


def parse(text: str, path: Path) -> dict[str, str]:
    """A flat mapping from YAML text. No text means no names.

    Raises
    ------
    UserError: with a line's number, and never with what stands there
    """
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{where} is not YAML", "it cannot be read", f"{_FORM}; quote the value") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply", "an environment is flat", _FORM) from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UserError(
            f"{path} is not a mapping", "it must give names their values (a shell's NAME=value is not YAML)", _FORM
        )
    found: dict[str, str] = {}
    for key, value in root.value:
        line = f"{path} line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode) or not _NAME.fullmatch(key.value):
            raise UserError(
                f"{line}: not the name of an environment variable",
                "letters, digits and _ only, no digit first (not shown: it may be a secret)",
                _FORM,
            )
        name = key.value
        if name in found:
            raise UserError(f"{line}: {name} is given twice", "only one of the two can be used", "remove one of them")
        if not isinstance(value, yaml.ScalarNode):
            raise UserError(f"{line}: {name} is a list or a mapping", "a variable holds one text", _FORM)
        if value.value in ("", "~", "null"):
            raise UserError(f"{line}: {name} has no value", "an empty secret fails later", f"remove {name}")
        if "\0" in value.value or not _encodes(value.value):
            raise UserError(
                f"{line}: {name} has a character that an environment variable cannot hold",
                "the value is not shown: it may be a secret",
                f"remove {name}",
            )
        found[name] = value.value
    return found


def _encodes(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
