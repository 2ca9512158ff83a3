"""NeMo RL's own way of reading a recipe: YAML files whose `defaults:` name parents, merged, with interpolations.

The same result as nemo_rl/utils/config.py (load_config) gives, read with libyaml. It is on the launch path (`recipe=`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nano_exp import files, hydra_internals
from nano_exp.errors import UserError

#: In a recipe: this section replaces the parents' instead of being merged into it.
OVERRIDE = "_override_"
Children: TypeAlias = tuple[Path, ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe with its parents merged in.

    Parameters
    ----------
    path: the file
    config: merged, with interpolations left as they are written
    files: every file that was read, parents first, with the SHA-256 (hex) of its bytes
    """

    path: Path
    config: DictConfig
    files: dict[Path, str] = field(default_factory=dict)


def load(path: Path, old_paths: bool = False, elsewhere: Callable[[], Path | None] | None = None) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    old_paths: a parent's own parents are relative to the first file's folder, as NeMo RL had it before v0.6.0
    elsewhere: gives a folder where a parent is looked for that is not there otherwise (beside its child, then beside
        the first file); it is asked only then

    Raises
    ------
    UserError: a file that is not there, not YAML or not a mapping, or parents that go round in a circle
    """
    read: dict[Path, str] = {}

    def find(parent: str, child: Path) -> Path:
        folders = [path.parent] if old_paths else [child.parent]
        if elsewhere is None or (folders[0] / parent).is_file():
            return folders[0] / parent
        folders += [path.parent, *filter(None, [elsewhere()])]
        return next((f / parent for f in folders if (f / parent).is_file()), folders[0] / parent)

    return Recipe(path, _load(path, find, read, ()), read)


def _load(path: Path, find: Callable[[str, Path], Path], read: dict[Path, str], children: Children) -> DictConfig:
    path = path.resolve()
    if path in children:
        circle = " -> ".join(p.name for p in [*children[children.index(path) :], path])
        raise UserError(
            f"the defaults of {children[0]} go round in a circle: {circle}",
            "a recipe is merged after its parents, and here none is the first",
            f"take one of these `defaults:` away (the last is in {children[-1]})",
        )
    config = OmegaConf.create(_read(path, read, children))
    parents = config.pop("defaults", None)
    if parents is None:
        return config
    merged = OmegaConf.create({})
    for parent in [parents] if isinstance(parents, str) else parents:
        below = _load(find(str(parent), path), find, read, (*children, path))
        merged = merge(merged, below)
    return merge(merged, config)


def _read(path: Path, read: dict[Path, str], children: Children) -> dict[str, Any]:
    named = f" (named by the defaults of {children[-1]})" if children else ""
    try:
        data = path.read_bytes()
        value = yaml.load(data, Loader=_loader())
    except OSError as error:
        raise UserError(
            f"no recipe {path}{named}" if isinstance(error, FileNotFoundError) else f"{path}{named}: {error.strerror}",
            "a recipe is a YAML file, with all the parents that its `defaults:` name",
            f"edit the path in {children[-1]}; one inside NeMo RL's checkout needs site.checkout=/path/to/RL"
            if children
            else "recipe=/path/to/a/recipe.yaml",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}{named} is not YAML: {' '.join(str(error).split())}",
            "it cannot be read",
            f"edit that line of {path}",
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path}{named} holds {'nothing' if value is None else f'a {type(value).__name__}'}",
            "a recipe is a mapping of NeMo RL's sections (grpo, policy, ...)",
            "name another file",
        )
    read[path] = hashlib.sha256(data).hexdigest()
    return value


def merge(base: DictConfig, top: DictConfig) -> DictConfig:
    """`top` over `base`, as nemo_rl/utils/config.py merge_with_override does."""
    for key in list(top):
        if OmegaConf.is_missing(top, key):  # to be set further down, or by the user
            continue
        if isinstance(top[key], DictConfig) and top[key].get(OVERRIDE, False):
            top[key].pop(OVERRIDE)
            base.pop(key, None)
    return cast(DictConfig, OmegaConf.merge(base, top))


def resolved(config: DictConfig) -> dict[str, Any]:
    """All values computed; `???` stays as it is, and so does a section that cannot be computed."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))


def keys(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key, sections included; lists are values."""
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")


@cache
def _loader() -> Any:
    """OmegaConf's rules (1e-6 is a number, a key given twice is an error) on libyaml's parser."""
    rules = hydra_internals.yaml_rules()

    class Loader(files.Loader):
        yaml_implicit_resolvers = rules.yaml_implicit_resolvers
        yaml_constructors = rules.yaml_constructors

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = set()
            for key, _ in node.value:
                if key.value in keys and key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value} twice", key.start_mark)
                keys.add(key.value) if isinstance(key.value, str) else None
            return super().construct_mapping(node, deep=deep)

    return Loader
