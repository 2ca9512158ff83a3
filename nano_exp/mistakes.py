"""From a composition that failed to words a user can act on: the nearest real name for each mistyped group, option or
key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nano_exp import secrets
from nano_exp.compose import choices_of, plain, raw
from nano_exp.errors import UserError, nearest
from nano_exp.identity import flatten
from nano_exp.recipes import own

#: Groups whose options are picked by others or hold pieces, not something to type.
_INNER_OPTIONS = ("default/", "v0_")


def explain(error: Exception, config_loader: ConfigLoader, overrides: Sequence[str]) -> UserError:
    """The user's mistake behind an exception of Hydra or OmegaConf, in three parts."""
    try:
        secrets.refuse_overrides(overrides)  # first: what follows shows the override
    except UserError as refusal:
        return refusal
    found = next(diagnose(config_loader, overrides), None)
    if found is not None:
        return found
    text = " ".join(str(error).split())
    if text.startswith("Ambiguous value for argument"):
        swept = text.split(" 1. To use it")[0].removeprefix("Ambiguous value for argument ").strip("'")
        fix = "give one value, or launch it with -m; a list that is one value has brackets: 'key=[a,b]'"
        return UserError(swept, "a comma makes a sweep, and this needs one config", fix)
    key = getattr(error, "full_key", None)
    if key:
        return UserError(
            f"{key}: {text.split(' full_key:')[0]}", "the config cannot be composed with it", f"set {key}=..."
        )
    return UserError(
        text, "the config cannot be composed", "python launch.py --help lists the groups and their options"
    )


def diagnose(config_loader: ConfigLoader, overrides: Sequence[str]) -> Iterator[UserError]:
    """Look at each override by itself: does it parse, does its group, option or key exist?"""
    parser = OverridesParser.create(config_loader=config_loader)
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])  # not parse_override: a glob needs the loader
        except HydraException:
            yield _unparsable(text)
    groups = all_groups(config_loader)
    for override in parsed:
        if override.key_or_group == "sweeps":
            yield from _bad_sweep(override)
        group = override.key_or_group
        if group in groups and group not in _OPTIONAL and not group.startswith("hydra"):
            yield from _left_out(config_loader, group, override)
        if group in groups and not override.is_delete():
            yield from _bad_options(config_loader, group, override)
    chosen = [o for o in parsed if o.key_or_group in groups and not o.is_delete()]
    keys, theirs = _known_keys(config_loader, chosen)
    for override in parsed:
        key = override.key_or_group
        if key in groups or override.is_force_add() or override.is_add():
            continue
        hydra = key.split(".")[0] == "hydra"
        if hydra and override.is_sweep_override():
            yield UserError(
                str(override.input_line),
                "Hydra's own settings, the launcher's among them, are those of a whole launch: they cannot be swept",
                f"one launch for each value: {key}=...",
            )
        if hydra and any(o.key_or_group.startswith("hydra/") for o in chosen):
            continue  # the keys of another launcher or sweeper are not looked up
        if keys is not None and key not in keys and key in theirs and not override.is_delete():
            text = str(override.input_line)
            yield UserError(text, "NeMo RL has this key, and the recipe does not: it has to be added", f"++{text}")
        elif keys is not None and key not in keys:
            yield _unknown_key(override, {k for k in keys if k.startswith("hydra.") == hydra}, groups)


def all_groups(config_loader: ConfigLoader, parent: str = "") -> set[str]:
    """Every config group of the tree (`model`, `hydra/launcher`, ...)."""
    found: set[str] = set()
    for name in config_loader.list_groups(parent):
        group = f"{parent}/{name}" if parent else name
        found.add(group)
        found |= all_groups(config_loader, group)
    return found


def _unparsable(text: str) -> UserError:
    key, equals, value = text.partition("=")
    if not equals:
        return UserError(
            f"'{text}' has no =",
            "an override is key=value (or ~key to take one away)",
            f"{text}=VALUE, or leave it out",
        )
    if value.endswith(","):
        return UserError(
            f"cannot read the value in {text}",
            "it ends in a comma, and no value follows",
            text.rstrip(",") + " (or one more value)",
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


#: Groups that a run may do without.
_OPTIONAL = ("recipe", "sweeps")


def _left_out(config_loader: ConfigLoader, group: str, override: Override) -> Iterator[UserError]:
    if override.is_delete() or (not override.is_sweep_override() and override.value() is None):
        why = f"every run has one of: {', '.join(_shown(group, _options(config_loader, group)))}"
        yield UserError(str(override.input_line), why, f"{group}=..., or leave it out for the default")


def _options(config_loader: ConfigLoader, group: str) -> list[str]:
    return list(config_loader.get_group_options(group, results_filter=ObjectType.CONFIG))


def _shown(group: str, options: Sequence[str]) -> list[str]:
    """The options that are meant to be typed."""
    return [o for o in options if group == "nemo_rl" or not o.startswith(_INNER_OPTIONS)]


def _bad_options(config_loader: ConfigLoader, group: str, override: Override) -> Iterator[UserError]:
    options = _options(config_loader, group)
    shown = _shown(group, options)
    for value in choices_of(override):
        for choice in value if isinstance(value, list) else [value]:
            if choice is None or choice in options or "/" in str(choice) or (group == "recipe" and own.is_path(choice)):
                continue
            near = nearest(str(choice), shown)
            best = near[0] if near else (shown[0] if shown else "...")
            if group == "site" and not near:
                yield UserError(
                    f"site={choice}",
                    f"there is no conf/site/{choice}.yaml; there are: {', '.join(shown)}",
                    f"cp conf/site/default.yaml conf/site/{choice}.yaml, and fill in what your cluster needs",
                )
                continue
            yield UserError(
                f"{group}={choice}",
                f"{group} has no option '{choice}'; it has: {', '.join(shown)}",
                f"{group}={best}" + (f" (or: {', '.join(near[1:])})" if near[1:] else ""),
            )


def _bad_sweep(override: Override) -> Iterator[UserError]:
    if override.is_add() or override.is_force_add():
        text = str(override.input_line)
        yield UserError(text, "a sweep is chosen, not added", text.lstrip("+"))
    elif not override.is_sweep_override() and not override.is_delete() and override.value() is None:
        yield UserError(str(override.input_line), "no sweep is what a launch has by itself", "leave it out")


def _known_keys(
    config_loader: ConfigLoader, group_overrides: Sequence[Override]
) -> tuple[set[str] | None, frozenset[str]]:
    """Dotted keys (inner ones too) with the first option of each group override, None if even that does not compose;
    and every key that its NeMo RL version has."""
    words = [f"{o.key_or_group}={choices_of(o)[0]}" for o in group_overrides if not o.key_or_group.startswith("hydra")]
    try:
        cfg = plain(config_loader, words)
    except (HydraException, OmegaConfBaseException):
        return None, frozenset()
    keys: set[str] = set()
    for leaf in (key for key, _ in flatten(raw(cfg))):
        parts = leaf.split(".")
        keys.update(".".join(parts[: i + 1]) for i in range(len(parts)))
    return keys, _nemo_rl_keys(cfg)


def _nemo_rl_keys(cfg: DictConfig) -> frozenset[str]:
    """What the types or the recipes of the NeMo RL version have; nothing for the embedded engine."""
    from nano_exp.preflight import known

    config = raw(cfg)
    try:
        found = known.load(str(config["nemo_rl"]["version"])) if config["engine"]["name"] == "nemo_rl" else None
    except (UserError, KeyError, TypeError):
        found = None
    return found.names if found is not None else frozenset()


def _unknown_key(override: Override, keys: Iterable[str], groups: Iterable[str]) -> UserError:
    key = override.key_or_group
    leaf = key.rsplit(".", 1)[-1]
    known = sorted(keys)
    near = nearest(key, [*known, *groups])
    same = sorted((k for k in known if k.rsplit(".", 1)[-1] == leaf), key=lambda k: (k.count("."), k))
    # The right name in another section is likelier meant than a similar path, unless it is everywhere (`name`).
    ordered = [*same, *near] if len(same) <= 4 else [*near, *same]
    near = [k for k in dict.fromkeys(ordered) if not key.startswith(f"{k}.")]
    value = override.input_line.split("=", 1)[1] if override.input_line and "=" in override.input_line else "..."
    if override.is_delete():
        return UserError(f"~{key}", "there is no such key to take away", f"~{near[0]}" if near else f"leave ~{key} out")
    why = "the config has no such key"
    if near:
        fix = f"{near[0]}={value}" + (f" (or: {', '.join(near[1:3])})" if near[1:] else "")
    else:
        fix = f"look it up with --cfg job; to add a key that NeMo RL knows and the recipe lacks: ++{key}={value}"
    return UserError(f"{key}={value}", why, fix)
