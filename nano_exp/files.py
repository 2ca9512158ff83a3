"""Writing to a shared file system so that a reader, or a crash, never meets half a file."""

from __future__ import annotations

import contextlib
import errno
import json
import marshal
import os
import re
import textwrap
import uuid
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from nano_exp.errors import UserError

try:
    from yaml import CSafeDumper as Dumper
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml: slower, the same result
    from yaml import SafeDumper as Dumper  # type: ignore[assignment]
    from yaml import SafeLoader as Loader  # type: ignore[assignment]


class Damaged(Exception):
    """A file of the store that cannot be read as what it should be. Harms its own run's row alone."""


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write aside and rename; with `durable`, on the disk before it has its name.

    Raises
    ------
    UserError: no permission, no space or no such place, in words
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("wb") as file:
            file.write(str.encode(text))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def write_unseen(path: Path, text: str) -> None:
    """Write a file of a folder that gets its name later, so that nobody can meet half of it.

    Raises
    ------
    UserError: no permission, no space or no such place, in words
    """
    try:
        with path.open("wb") as file:
            file.write(text.encode())
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """JSON, indented: people read these files too."""
    write_text(path, dump_json(value), durable)


def dump_json(value: Any) -> str:
    """As `write_json` writes it."""
    return _indented(value, "\n") + "\n"


_ONE_LINE = json.JSONEncoder(ensure_ascii=False).encode


def _indented(value: Any, line: str) -> str:
    """As json.dumps(value, indent=1) writes it, in a third of the time: that indents in Python, this encodes in C."""
    inner = f"{line} "
    if isinstance(value, dict) and value and all(type(key) is str for key in value):
        entries = [f"{_ONE_LINE(key)}: {_indented(one, inner)}" for key, one in value.items()]
        return f"{{{inner}{f',{inner}'.join(entries)}{line}}}"
    if isinstance(value, list | tuple) and value:
        return f"[{inner}{f',{inner}'.join([_indented(one, inner) for one in value])}{line}]"
    if isinstance(value, dict) and value:  # keys that become texts
        return json.dumps(value, indent=1, ensure_ascii=False).replace("\n", line)
    return _ONE_LINE(value)


def read_json(path: Path) -> Any:
    """Raises Damaged where the file is not JSON; FileNotFoundError where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise Damaged(f"{path.name} is not JSON: {error}") from error


#: Keys that YAML reads as text without quotes, whatever its version: none of yes, no, on, off, true, false, null, y, n.
_PLAIN_KEY = re.compile(r"(?!(?i:yes|no|on|off|true|false|null|y|n)$)[A-Za-z][A-Za-z_]*")


#: A text of less than this stands on one line, whatever its key.
FOLDED = 80
#: Paths, and words, that YAML writes without quotes and on one line.
_PLAIN_TEXT = re.compile(
    r"/[A-Za-z0-9_./+@-]*"
    r"|(?!(?i:yes|no|on|off|true|false|null|y|n)$)[A-Za-z][A-Za-z0-9_.=/+-]*(?: [A-Za-z0-9][A-Za-z0-9_.=/+-]*){0,9}"
)


class _PlainDumper(Dumper):
    """Without anchors: a list that stands in two places is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_yaml(value: Any) -> str:
    """Block YAML in the order of the keys. Floats survive the way back; strings that look like numbers are quoted."""
    if not isinstance(value, dict) or not value:
        return _whole(value)
    return "".join(text for _, text in yaml_entries(value))


def yaml_entries(value: Mapping[Any, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """The YAML of a mapping, entry by entry: the path and the text of each value, and of each mapping's head."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield (*path, key), "  " * len(path) + _head(key) + ":\n"
            yield from yaml_entries(inner, (*path, key))
        else:
            yield (*path, key), yaml_entry((*path, key), inner)


def yaml_entry(path: tuple[Any, ...], value: Any) -> str:
    """The text of one of them: a value that is no mapping, or an empty one."""
    kind, key = type(value), path[-1]
    if kind in (bool, int, str, type(None)) and type(key) is str:
        text = _kept_scalar(key, value)
    else:
        try:
            text = _kept_entry(marshal.dumps((key, value)))
        except ValueError:  # not plain data; YAML may know it
            text = _whole({key: value})
    return textwrap.indent(text, "  " * (len(path) - 1)) if len(path) > 1 else text


@lru_cache(maxsize=4096)
def _head(key: Any) -> str:
    return _whole({key: None}).rsplit(": null", 1)[0]


def _whole(value: Any) -> str:
    return yaml.dump(value, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=120)


@lru_cache(maxsize=4096)
def _kept_entry(entry: bytes) -> str:
    key, value = marshal.loads(entry)
    return _whole({key: value})


@lru_cache(maxsize=4096, typed=True)
def _kept_scalar(key: str, value: bool | int | str | None) -> str:
    if _PLAIN_KEY.fullmatch(key):  # what YAML writes too, in a hundredth of the time
        if not isinstance(value, str):
            return f"{key}: {json.dumps(value)}\n"
        if (len(value) < FOLDED or " " not in value) and _PLAIN_TEXT.fullmatch(value):
            return f"{key}: {value}\n"
    return _whole({key: value})


def read_yaml(path: Path) -> Any:
    """Raises Damaged where the file is not YAML; FileNotFoundError where there is none."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Damaged(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error


def tail(path: Path, window: int = 64 * 1024) -> str:
    """The end of a log, bytes `window` of it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - window))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def names(folder: Path) -> list[str]:
    """What is in a folder, sorted; nothing where there is none, or it is closed to us."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []


def make_dir(path: Path, option: str = "run.results=") -> None:
    """mkdir -p, with the error in words; the user chooses the place with `option`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error, option) from error


def unwritable(path: Path, error: OSError, option: str = "run.results=") -> UserError:
    """What an OSError of a write means for the user, who chooses the place with `option`."""
    reasons = {
        errno.ENOSPC: ("the disk is full", f"free space there, or write elsewhere: {option}/path/with/space"),
        errno.EDQUOT: ("your quota there is used up", f"free space there, or write elsewhere: {option}/other/path"),
        errno.EROFS: ("the file system is read-only", f"write elsewhere: {option}/a/writable/path"),
        errno.EACCES: ("you may not write there", f"write elsewhere: {option}/a/writable/path"),
        errno.EPERM: ("you may not write there", f"write elsewhere: {option}/a/writable/path"),
        errno.ENOTDIR: ("a part of the path is a file, not a folder", f"name a folder: {option}/a/folder"),
        errno.EEXIST: ("there is a file of that name", f"name a folder: {option}/a/folder"),
        errno.ENOENT: ("there is no such folder", f"make it first, or write elsewhere: {option}/a/folder/that/exists"),
    }
    why, fix = reasons.get(error.errno or 0, (error.strerror or str(error), f"check the path: {option}..."))
    return UserError(f"cannot write {path}", why, fix)
