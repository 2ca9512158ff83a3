"""Few points without Hydra: from a composition that is kept as plain data, where all that is typed is plain.

Hydra composes the chosen options once (`keep`); what that gives is kept beside `nano_exp.compose.kept`'s files, under a
name of the same kind. A point of the same options then is that data, with the typed values in it and its interpolations
computed (`nano_exp.compose.plain_values`). It is what Hydra and OmegaConf give, because nothing else is done here:

- a typed value is one word of letters, digits and `_ - . / @ +`, in the place of a value that is there, below mappings;
- an interpolation names keys from the top, calls arithmetic or `oc.env`, or is text with such ones in it.

Whatever else is typed, or is in a config, and whatever is a mistake, has no quick way here: None, and Hydra composes,
or says why not.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from nano_exp import credentials
from nano_exp.compose import freeze, kept, launcher_settings, nearest, plain_values
from nano_exp.compose.plain_values import NotPlain
from nano_exp.errors import UserError
from nano_exp.store import axes

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

SUFFIX = ".plain"
#: Of more points a family is quicker (nano_exp.compose.family).
MOST = 30
#: Keys that are read for a launch, and not for each point.
_OF_A_LAUNCH = ("site", "sweep", "hydra")
#: An interpolation of hydra.launcher's that reads something else than the site.
_READS_MORE = re.compile(r"\$\{(?!site\.)")

_allowed = False


def allow(value: bool = True) -> None:
    """Let this process take the quick way: none of Hydra's flags is typed, and nobody has told Hydra something else."""
    global _allowed
    _allowed = value


@dataclass(frozen=True)
class Quick:
    """A point that was composed the quick way.

    Parameters
    ----------
    config: resolved, free of secrets
    parameters: hydra.launcher's that a launch reads
    sweep: the section `sweep`, unresolved
    """

    overrides: tuple[str, ...]
    config: dict[str, Any]
    choices: Mapping[str, str | None]
    notes: tuple[str, ...]
    parameters: dict[str, Any]
    sweep: dict[str, Any]

    def resolve(self) -> freeze.Resolved:
        """As `freeze.Freezable` says."""
        return freeze.Resolved(self.overrides, self.config, self.choices)


class Words(NamedTuple):
    """What is typed: overrides that choose options, and the values of keys."""

    chosen: tuple[str, ...]
    values: tuple[plain_values.Word, ...]


def point(overrides: Sequence[str]) -> Quick | None:
    """A point, composed; None where it is not to be had this way."""
    made = _made_of([overrides])
    return made[0] if made else None


def points(overrides: Sequence[str], several: bool) -> list[Quick] | None:
    """The points of a launch, `key=a,b` and `key=range(1,3)` expanded; None where they are not to be had this way.

    A swept key is one of the run's alone: what holds for the launch is that of any point.

    Parameters
    ----------
    several: whether -m is typed, without which such words are a mistake
    """
    axes = [plain_values.axis(override) for override in overrides]
    if not several and axes != [[override] for override in overrides]:
        return None
    swept = [axis[0].partition("=")[0].lstrip("+") for axis in axes if axis and len(axis) > 1]
    if any(key.startswith(_OF_A_LAUNCH) for key in swept) or math.prod(map(len, axes)) > MOST:
        return None
    made = _made_of(list(itertools.product(*axes)), bool(swept))
    return [_sharing(one, made[0]) for one in made] if made else None


def _sharing(one: Quick, first: Quick) -> Quick:
    """The point with the sections that are the first one's too: what is made of a section is made once."""
    pairs = [(key, value, first.config.get(key)) for key, value in one.config.items()]
    return replace(one, config={key: same if repr(same) == repr(value) else value for key, value, same in pairs})


def _made_of(every: Sequence[Sequence[str]], swept: bool = False) -> list[Quick] | None:
    read = [words(overrides) for overrides in every]
    typed = [one for one in read if one is not None]
    if not typed or len(typed) < len(read) or len({one.chosen for one in typed}) > 1:
        return None
    if (name := _name(typed[0])) is None:
        return None
    try:
        content = kept.read(name, SUFFIX)
        if content is None or (swept and _READS_MORE.search(json.dumps(json.loads(content)["launcher"]))):
            return None
        return [_made(texts, one, json.loads(content)) for texts, one in zip(every, typed, strict=True)]
    except (NotPlain, UserError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _made(overrides: Sequence[str], words: Words, stored: Mapping[str, Any]) -> Quick:
    config, choices = stored["config"], stored["choices"]
    for word in words.values:
        plain_values.put(config, word)
    launcher_settings.require(config)
    section = config.pop("sweep", {})
    credentials.refuse_overrides(overrides)
    credentials.refuse(config)
    resolved = plain_values.Resolver(config).resolved(config)
    credentials.refuse(resolved)
    parameters = plain_values.Resolver(config).typed(stored["launcher"], stored["kinds"])
    note = nearest.note(choices)
    of_the_run = {group: option for group, option in choices.items() if axes.of_the_run(group) and "@" not in group}
    return Quick(tuple(overrides), resolved, of_the_run, (note,) if note else (), parameters, section)


def keep(config_loader: ConfigLoader, overrides: Sequence[str]) -> None:
    """Keep what a point with these overrides can be made of, where it can be."""
    if (typed := words(overrides)) is None or (name := _name(typed)) is None:
        return
    with contextlib.suppress(OSError):
        if kept.read(name, SUFFIX):
            return
    from nano_exp.compose import quick_keep

    stored = quick_keep.of(config_loader, typed.chosen, [word.key for word in typed.values])
    if stored is not None:
        kept.write(name, SUFFIX, json.dumps(stored).encode())


def recall(typed: Words) -> dict[str, Any] | None:
    """What is kept of the options that are typed: config, choices and the launcher's settings."""
    name = _name(typed)
    try:
        content = kept.read(name, SUFFIX) if name else None
        return cast("dict[str, Any]", json.loads(content)) if content else None
    except (OSError, ValueError):
        return None


def words(overrides: Sequence[str]) -> Words | None:
    """What is typed; None where some of it is not plain."""
    if not _allowed:
        return None
    parsed = [plain_values.word(override) for override in overrides]
    plain = [word for word in parsed if word is not None]
    keys = [word.key for word in plain]
    if len(plain) < len(parsed) or len(set(keys)) < len(keys):
        return None
    chosen = [
        i for i, word in enumerate(plain) if any((folder / word.key).is_dir() for folder in nearest.own_folders())
    ]
    if any(plain[i].forced or not _is_option(plain[i]) for i in chosen) or any(map(_is_read_elsewhere, keys)):
        return None
    return Words(tuple(overrides[i] for i in chosen), tuple(word for i, word in enumerate(plain) if i not in chosen))


def _is_option(word: plain_values.Word) -> bool:
    """Whether a choice is one of files: no recipe file, and no layout that is looked for."""
    return not {"/", "."} & set(str(word.value)) and (word.key, word.value) != ("parallelism", "auto")


def _is_read_elsewhere(key: str) -> bool:
    """Hydra's own settings, and what says that there is a recipe."""
    return key.startswith(("hydra.", "nemo_rl."))


def _name(words: Words) -> str | None:
    """What the data of these options is called: as a composition is, by all that it depends on."""
    try:
        libraries = list(_libraries())
    except (OSError, ImportError, ValueError):
        return None
    own = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("quick", "quick_keep", "compose")]
    return kept.key(list(map(str, nearest.own_folders())), words.chosen, SUFFIX, libraries, own)


def _libraries() -> Iterator[tuple[str, Any]]:
    """What composes: Hydra's and OmegaConf's versions, and the files of Hydra's plugins; none of it is loaded."""
    for name, file in (("hydra", "__init__.py"), ("omegaconf", "version.py")):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(name)
        yield name, Path(spec.origin).with_name(file).read_text()
    plugins = importlib.util.find_spec("hydra_plugins")
    for place in sorted((plugins and plugins.submodule_search_locations) or ()):
        for folder, _, names in sorted(os.walk(place)):
            for path in (f"{folder}/{name}" for name in sorted(names) if name.endswith(".py")):
                stat = Path(path).stat()
                yield path, (stat.st_size, stat.st_mtime_ns)
