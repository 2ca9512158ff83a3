"""Compositions kept on disk: what Hydra makes of the chosen options, which is most of the time that composing takes.

A composition is kept as it is before Hydra sets the overrides of keys in it, which Hydra itself does each time: what a
launch gets is what it would get without this module. It depends on the options that are chosen and on the text of every
file on Hydra's search path, so these name it, with the versions of what composes. A file that is gone, damaged or
cannot be written costs time alone; the folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from nano_exp.compose import nearest

#: Names the folder; empty: nothing is kept on disk.
VARIABLE = "NANO_EXP_CACHE"
#: Compositions that the folder holds at most: beyond it the oldest go.
MOST = 64
#: A conf tree of more is not looked through: a link in it leads to something else.
MOST_FOLDERS = 1000
_SUFFIX = ".composed"

_recent: dict[str, bytes] = {}
#: How many compositions of this process were kept, or are such: they depend on files alone.
count = 0
_off = False


def turn_off() -> None:
    """Compose everything in this process: for Hydra's own flags, which show how it composes."""
    global _off
    _off = True


def key(folders: Sequence[str], chosen: Iterable[str], *more: Any) -> str | None:
    """What a composition is called; None where it is not to be kept.

    Parameters
    ----------
    folders: Hydra's search path
    chosen: overrides that choose an option, as typed
    more: what else it depends on
    """
    if _off:
        return None
    digest = hashlib.sha256(repr((sys.version, list(folders), list(chosen), more)).encode())
    try:
        for text in _texts(dict.fromkeys([*map(Path, folders), *nearest.folders(), *_own_code()])):
            digest.update(b"%d " % len(text) + text)
    except OSError:
        return None
    return digest.hexdigest()[:40]


def _own_code() -> Iterator[Path]:
    """What of our code Hydra calls while it composes."""
    here = Path(__file__)
    yield from (here, here.with_name("nearest.py"), here.with_name("resolvers.py"))
    yield here.parent.parent / "hydra_internals.py"


def _texts(places: Iterable[Path]) -> Iterator[bytes]:
    """Name and content of every YAML file of a place, in a fixed order; links are followed, as Hydra follows them."""
    for place in places:
        folders = list(itertools.islice(os.walk(place, followlinks=True), MOST_FOLDERS + 1))
        if len(folders) > MOST_FOLDERS:
            raise OSError(f"{place} has more folders than a conf tree has")
        inside = [f"{folder}/{name}" for folder, _, names in folders for name in names]
        for path in sorted(p for p in inside if p.endswith((".yaml", ".yml"))) or [str(place)]:
            yield os.fsencode(path)
            yield Path(path).read_bytes()


def recall(name: str) -> tuple[Any, Any] | None:
    """A composition's config and choices, the caller's own; None where it is not kept."""
    global count
    import pickle

    try:
        content = _recent.get(name) or read(name, _SUFFIX)
        composition = pickle.loads(content) if content else None
    except Exception:  # damaged as it may be, it costs time alone
        return None
    if content and composition is not None:
        _recent[name] = content
        count += 1
    return cast("tuple[Any, Any] | None", composition)


def read(name: str, suffix: str) -> bytes | None:
    """A file's content, if it is whole and this user's. Raises OSError where there is none."""
    folder = _folder()
    if folder is None:
        return None
    with (folder / f"{name}{suffix}").open("rb") as file:
        if os.fstat(file.fileno()).st_uid != os.getuid():
            return None
        whole = file.read()
    content = whole[32:]
    return content if hashlib.sha256(content).digest() == whole[:32] else None


def keep(name: str, composition: tuple[Any, Any]) -> None:
    """Keep a composition, in this process and on disk."""
    global count
    import pickle

    count += 1
    with contextlib.suppress(Exception):  # as in `recall`
        content = _recent[name] = pickle.dumps(composition, protocol=pickle.HIGHEST_PROTOCOL)
        write(name, _SUFFIX, content)


def write(name: str, suffix: str, content: bytes) -> None:
    """Write a file of a name, and take the oldest ones of its kind away. Nothing is written where it cannot be."""
    if (folder := _folder()) is None:
        return
    import tempfile

    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=f"{suffix}.new", delete=False) as file:
            file.write(hashlib.sha256(content).digest() + content)
        Path(file.name).replace(folder / f"{name}{suffix}")
        by_age = sorted(folder.glob(f"*{suffix}*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in by_age[MOST:]:
            path.unlink(missing_ok=True)


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE, "~/.cache/nano-exp")
    try:
        return Path(named).expanduser() if named else None
    except RuntimeError:  # a user without a home
        return None
