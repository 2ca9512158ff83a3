"""From a composition that failed to words a user can act on: the nearest real name for each mistyped group, option or
key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from nano_exp import credentials, project
from nano_exp.advice import unknown
from nano_exp.advice.suggestions import MOST_NAMES, Adviser, Suggestion
from nano_exp.compose import compose, recipe_file
from nano_exp.compose import nearest as nearest_recipe
from nano_exp.compose.compose import Uncomposable
from nano_exp.compose.conf_tree import CONF_DIR, choices_of
from nano_exp.errors import UserError, nearest
from nano_exp.overrides import Override as Typed
from nano_exp.synonyms import MEANT


def explain(error: Exception, config_loader: ConfigLoader, overrides: Sequence[str]) -> UserError:
    """The user's mistake behind an exception of Hydra or OmegaConf, in three parts."""
    try:
        credentials.refuse_overrides(overrides)  # first: what follows shows the override
    except UserError as refusal:
        return refusal
    mistake = next(diagnose(config_loader, overrides), None)
    if mistake is not None:
        return mistake
    text = " ".join(str(error).split())
    if text.startswith("Ambiguous value for argument"):
        swept = text.split(" 1. To use it")[0].removeprefix("Ambiguous value for argument ").strip("'")
        fix = "give one value, or launch it with -m; a list that is one value has brackets: 'key=[a,b]'"
        return UserError(swept, "a comma makes a sweep, and this needs one config", fix)
    if text.startswith("Error merging override "):  # a typed setting of Hydra's own: it names no key
        override = text.removeprefix("Error merging override ")
        cause = str(error.__cause__ or "").splitlines()
        why = cause[0] if cause else "it does not take that"
        return UserError(override, why, f"leave {override.partition('=')[0]}=... out")
    key = getattr(error, "full_key", None)
    if key:
        return UserError(
            f"{key}: {text.split(' full_key:')[0]}",
            "the config cannot be composed with it",
            f"leave {key}=... out, or give it another value",
        )
    return UserError(
        text, "the config cannot be composed", f"{project.launcher()} --help lists the groups and their options"
    )


@contextmanager
def explained(config_loader: ConfigLoader) -> Iterator[None]:
    """Raises UserError, in three parts, in the place of Uncomposable."""
    try:
        yield
    except Uncomposable as error:
        raise explain(error.cause, config_loader, error.overrides) from error


def diagnose(config_loader: ConfigLoader, overrides: Sequence[str]) -> Iterator[UserError]:
    """Look at each override by itself: does it parse, does its group, option or key exist, is its value of its kind?"""
    yield from _torn(overrides)
    parser = OverridesParser.create(config_loader=config_loader)
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])  # not parse_override: a glob needs the loader
        except HydraException:
            yield _unparsable(text)
    yield from _taken_away_and_set(parsed)
    groups = all_groups(config_loader)
    for override in parsed:
        group = override.key_or_group
        if group in _OPTIONAL:
            yield from _bad_optional(override)
        if group in groups and group not in _OPTIONAL and not group.startswith("hydra"):
            yield from _left_out(config_loader, group, override)
            if override.is_add() or override.is_force_add():
                why = f"every run has one {group} already: it is chosen, not added"
                yield UserError(str(override.input_line), why, f"{group}={_value(override)}")
        if group in groups and not override.is_delete():
            yield from _bad_options(config_loader, group, override)
    of_groups = [o for o in parsed if o.key_or_group in groups and not o.is_delete()]
    yield from _no_data(of_groups)
    adviser = Adviser(
        config_loader,
        [f"{o.key_or_group}={choices_of(o)[0]}" for o in of_groups if not o.key_or_group.startswith("hydra")],
    )
    if adviser.cfg is None:
        return
    for override in parsed:
        key = override.key_or_group
        hydra = key.split(".")[0] == "hydra"
        if hydra and override.is_sweep_override():
            yield UserError(
                str(override.input_line),
                "Hydra's own settings, the launcher's among them, are those of a whole launch: they cannot be swept",
                f"one launch for each value: {key}=...",
            )
        if key in groups or (hydra and any(o.key_or_group.startswith("hydra/") for o in of_groups)):
            continue  # the keys of another launcher or sweeper are not looked up
        yield from _bad_key(adviser, override)


def _bad_key(adviser: Adviser, override: Override) -> Iterator[UserError]:
    key, text = override.key_or_group, str(override.input_line)
    present = adviser.at(key)
    if override.is_delete():
        yield from _bad_deletion(adviser, override)
    elif key in adviser.keys and override.is_add() and not isinstance(present, dict):
        yield UserError(text, "+ adds a key, and the config has this one", f"{key}={_value(override)}")
    elif key in adviser.keys and isinstance(present, dict) and not _is_section(override):
        yield _no_section(adviser, override)
    elif key in adviser.keys and isinstance(present, dict) and not (override.is_add() or override.is_force_add()):
        yield from _bad_mapping(adviser, override)
    elif key in adviser.keys or override.is_add() or override.is_force_add():
        return
    elif key in adviser.theirs and adviser.composes(f"++{text}"):
        yield UserError(text, "NeMo RL has this key, and the recipe does not: it has to be added", f"++{text}")
    else:
        yield unknown.key(adviser, override.key_or_group, _value(override))


def _taken_away_and_set(parsed: Sequence[Override]) -> Iterator[UserError]:
    """A key that one override takes away and another one sets: Hydra takes away first."""
    taken = {override.key_or_group: override for override in parsed if override.is_delete()}
    for override in parsed:
        other = taken.get(override.key_or_group)
        if other is not None and not override.is_delete() and not override.is_add() and not override.is_force_add():
            yield UserError(
                f"{other.input_line} beside {override.input_line}",
                "the one takes the key away that the other one sets",
                f"leave {other.input_line} out",
            )


def _is_section(override: Override) -> bool:
    """Whether the value may stand where a section is: a mapping, or null, which takes it away."""
    return all(value is None or isinstance(value, dict) for value in choices_of(override))


def _no_section(adviser: Adviser, override: Override) -> UserError:
    key, value = override.key_or_group, _value(override)
    suggestion = adviser.instead(key, value) if key in MEANT else Suggestion()
    names = list(adviser.at(key))
    names_shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return UserError(
        str(override.input_line),
        f"{key} is a section, and its keys are set one by one: {names_shown or 'it has none yet'}",
        suggestion.fix or f"{key if names else f'+{key}'}.<name>=<its value>, or leave {override.input_line} out",
    )


def _bad_mapping(adviser: Adviser, override: Override) -> Iterator[UserError]:
    """A mapping sets keys of a section, and adds none."""
    key = override.key_or_group
    for value in choices_of(override):
        for name in value if isinstance(value, dict) else {}:
            if f"{key}.{name}" not in adviser.keys:
                yield UserError(
                    str(override.input_line),
                    f"{key} has no key {name}; it has {', '.join(list(adviser.at(key))[:MOST_NAMES])}",
                    f"leave {name} out, or add it: ++{key}.{name}=<its value>",
                )


def _bad_deletion(adviser: Adviser, override: Override) -> Iterator[UserError]:
    key = override.key_or_group
    if key in adviser.keys:
        if adviser.at(key) is None:
            yield UserError(f"~{key}", "it is null, and Hydra treats null as absent", f"leave ~{key} out")
        return
    above = key.rpartition(".")[0]
    if isinstance(adviser.at(above), list):
        why = f"{above} is a list, of which single items cannot be taken away"
        yield UserError(f"~{key}", why, f"leave ~{key} out, or give the whole list: '{above}=[<the items that stay>]'")
        return
    near = [f"~{name}" for name in nearest(key, adviser.keys) if adviser.works(f"~{name}")]
    yield UserError(f"~{key}", "there is no such key to take away", " or ".join(near) or f"leave ~{key} out")


def all_groups(config_loader: ConfigLoader, parent: str = "") -> set[str]:
    """Every config group of the tree (`model`, `hydra/launcher`, ...)."""
    groups: set[str] = set()
    for name in config_loader.list_groups(parent):
        group = f"{parent}/{name}" if parent else name
        groups.add(group)
        groups |= all_groups(config_loader, group)
    return groups


def _torn(overrides: Sequence[str]) -> Iterator[UserError]:
    """An override that a shell has torn at blanks: `lr= 1e-6`, `lr=1e-6, 5e-6`, `lr = 1e-6`."""
    index = 0
    while index < len(overrides):
        end = index + 1
        while end < len(overrides) and _goes_on(overrides[end - 1], overrides[end]):
            end += 1
        if end > index + 1:
            joined = re.sub(r"=+", "=", "".join(overrides[index:end]), count=1)
            several = "-m " if "," in joined and not re.search(r"[\[({]", joined) else ""
            yield UserError(
                " ".join(overrides[index:end]),
                "there are blanks in it, at which the shell makes several words of it",
                f"{several}{joined}",
            )
        index = end


def _goes_on(word: str, following: str) -> bool:
    """Whether the second word is a piece of the first one's override."""
    return "=" not in following.lstrip("=") and (
        (word.endswith(("=", ",")) and not following.startswith("~")) or following.startswith(("=", ","))
    )


def _unparsable(text: str) -> UserError:
    key, equals, value = text.partition("=")
    if not equals:
        return _without_equals(text)
    if value.lstrip().startswith("="):
        return UserError(
            text, "it has two = in a row, where one stands between key and value", f"{key}={value.lstrip(' =')}"
        )
    if value.endswith(","):
        return UserError(
            f"cannot read the value in {text}",
            "it ends in a comma, and no value follows",
            f"{text.rstrip(',')} (or one more value)",
        )
    if any(value.count(left) != value.count(right) for left, right in ("[]", "{}", "()")):
        return UserError(
            f"cannot read the value in {text}",
            "a bracket in it has no partner (a shell splits at blanks what is not in quotes)",
            f"the whole value, in quotes for the shell: '{key}=[a,b]', '{key}={{a: 1}}'",
        )
    quoted = f"'{key}=\"{value}\"'"
    return UserError(
        f"cannot read the value in {text}",
        "characters such as = ~ , : { } [ ] ( ) or a space need quotes inside the override",
        f"quote it for Hydra and for the shell: {quoted}",
    )


def _without_equals(text: str) -> UserError:
    key, colon, value = text.partition(":")
    if colon and value and re.fullmatch(r"[\w.+]+", key):
        return UserError(text, "an override is key=value, with = and no colon", f"{key}={value.strip()}")
    return UserError(
        f"'{text}' has no =",
        "an override is key=value (or ~key to take one away)",
        f"{text}=<its value>, or leave it out",
    )


#: Groups that a run may do without.
_OPTIONAL = ("recipe", "sweeps")


def _left_out(config_loader: ConfigLoader, group: str, override: Override) -> Iterator[UserError]:
    if override.is_delete() or (not override.is_sweep_override() and override.value() is None):
        why = f"every run has one of: {', '.join(unknown.shown(group, _options(config_loader, group)))}"
        yield UserError(str(override.input_line), why, f"{group}=..., or leave it out for the default")


def _options(config_loader: ConfigLoader, group: str) -> list[str]:
    return list(config_loader.get_group_options(group, results_filter=ObjectType.CONFIG))


def _bad_options(config_loader: ConfigLoader, group: str, override: Override) -> Iterator[UserError]:
    options = _options(config_loader, group)
    available = unknown.shown(group, options)
    for value in choices_of(override):
        if isinstance(value, list) and group != "sweeps":  # the launcher has its own words for those
            yield _several_options(group, override, value)
        elif not (
            value is None
            or isinstance(value, list)
            or value in options
            or (group == "recipe" and recipe_file.is_path(value))
        ):
            yield unknown.option(group, str(value), available)


def _several_options(group: str, override: Override, values: Sequence[Any]) -> UserError:
    joined = ",".join(map(str, values))
    fix = f"{group}={joined}" if len(values) == 1 else f"-m {group}={joined}, for a run of each" if values else ""
    return UserError(str(override.input_line), f"a run has one {group}", fix or f"leave {override.input_line} out")


def _no_data(overrides: Sequence[Override]) -> Iterator[UserError]:
    """A model of the user's own whose file does not say what it trains on."""
    if any(override.key_or_group in ("data", "recipe") for override in overrides):
        return
    for model in [value for o in overrides if o.key_or_group == "model" for value in choices_of(o)]:
        if not nearest_recipe.has_data(str(model)):
            file = project.at(CONF_DIR / "model" / f"{model}.yaml")
            yield UserError(
                f"model={model} and no data=",
                f"{file} names no model whose recipes and data it starts from",
                compose.name_a_source(str(model)),
            )


def _bad_optional(override: Override) -> Iterator[UserError]:
    text, group = str(override.input_line), override.key_or_group
    if not override.is_sweep_override() and not override.is_delete() and override.value() is None:
        yield UserError(text, f"a launch has no {group.removesuffix('s')} unless one is named", f"leave {text} out")
    elif override.is_add() or override.is_force_add():
        yield UserError(text, f"a {group.removesuffix('s')} is chosen, not added", f"{group}={_value(override)}")


def _value(override: Override) -> str:
    """The value as typed."""
    return Typed.parse(str(override.input_line)).value
