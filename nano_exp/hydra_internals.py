"""Every use of a private part of Hydra and OmegaConf, each with its reason.

Checked against hydra-core 1.3.8 and omegaconf 2.3.1; pyproject.toml pins both to these versions. Who moves a pin reads
this module against the new sources, and runs tests/compose, which hold each use to what Hydra does by itself. What is
private in submitit stands in `nano_exp.launch.executors` alone.
"""

from __future__ import annotations

import re
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path as FilePath
from typing import Any, cast

import hydra
import omegaconf._utils
import omegaconf.base
import yaml
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import AnyNode, Container, DictConfig, ListConfig, OmegaConf, grammar_parser

#: Keys and list places from the top of a config.
Path = tuple[Any, ...]


def compose_once() -> None:
    """Make Hydra take every launch for a multirun, which our sweeper serves.

    `Hydra.get_mode` would compose everything once more to read hydra.mode, whose other value a launch refuses.
    """
    from hydra._internal.hydra import Hydra  # it loads logging and plugins: for a launch alone
    from hydra.types import RunMode

    Hydra.get_mode = lambda *_, **__: RunMode.MULTIRUN  # type: ignore[method-assign]


def arguments() -> Namespace:
    """This process's command line as Hydra parses it: there is no other reader of Hydra's own flags."""
    return get_args_parser().parse_known_args()[0]


def set_values(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    """Set overrides in a composed config as composing does, which no public function does without composing.

    Raises
    ------
    HydraException, OmegaConfBaseException: as composing does
    """
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), cfg)


def skip_search_path() -> None:
    """Let Hydra not read the primary config for the search path in it, which it does for each composition, where the
    text of that file has no such word."""
    process: Any = ConfigLoaderImpl._process_config_searchpath

    def needed(self: Any, config_name: Any, parsed_overrides: list[Override], repo: Any) -> None:
        file = _primary_file(repo, config_name)
        typed = any(override.key_or_group == "hydra.searchpath" for override in parsed_overrides)
        if typed or file is None or b"searchpath" in file.read_bytes():
            process(self, config_name, parsed_overrides, repo)

    if process.__name__ != needed.__name__:
        ConfigLoaderImpl._process_config_searchpath = needed  # type: ignore[method-assign]


def _primary_file(repo: Any, config_name: str | None) -> FilePath | None:
    """The file that Hydra reads the primary config from; None where that is none."""
    for source in repo.get_sources() if config_name else ():
        if source.is_config(config_name):
            return (
                FilePath(source.path, source._normalize_file_name(config_name)) if source.scheme() == "file" else None
            )
    return None


def share_store() -> None:
    """Let Hydra not copy its store of options for each composition and each look at a group: to the copy it does
    nothing but read, and what it loads of it it copies again."""
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


def reuse_compositions(
    name: Callable[..., str | None], recall: Callable[[str], Any], keep: Callable[[str, Any], None]
) -> None:
    """Let Hydra take what it made of its defaults lists once: the config before overrides of keys are set in it, and
    the choices of options. All that comes after, and what is refused, is Hydra's own doing each time.

    Parameters
    ----------
    name: what a composition is called, by Hydra's search path, the overrides that choose options, and what else it
        depends on; None where it is not to be kept
    """
    if config_loader_impl.create_defaults_list is not create_defaults_list:
        return

    def listed(
        repo: Any, config_name: Any, overrides_list: list[Override], prepend_hydra: bool, skip_missing: bool
    ) -> DefaultsList:
        overrides = Overrides(repo=repo, overrides_list=overrides_list)
        called = _called(name, repo, overrides, overrides_list, (config_name, prepend_hydra, skip_missing))
        if called is not None and (composition := recall(called)) is not None:
            cfg, overrides.known_choices = composition
            return DefaultsList(_Composed([], cfg=cfg), None, overrides.config_overrides, overrides)  # type: ignore[arg-type]
        with warnings.catch_warnings(record=True) as caught:
            made = create_defaults_list(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        for one in caught:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if called is not None and not caught and _is_told_by_files(repo):
            choices = made.overrides.known_choices
            made.defaults = _Composed(made.defaults, done=lambda cfg: keep(called, (cfg, choices)))
        return made

    def composed(self: Any, defaults: Any, repo: Any) -> DictConfig:
        if isinstance(defaults, _Composed) and defaults.cfg is not None:
            return defaults.cfg
        cfg = compose(self, defaults=defaults, repo=repo)
        if isinstance(defaults, _Composed):
            defaults.done(cfg)
        return cfg

    compose: Any = ConfigLoaderImpl._compose_config_from_defaults_list
    config_loader_impl.create_defaults_list = listed
    ConfigLoaderImpl._compose_config_from_defaults_list = composed  # type: ignore[method-assign]


class _Composed(list[Any]):
    """A defaults list that is composed already (`cfg`), or that is to be kept when it is (`done`)."""

    def __init__(self, defaults: Any, cfg: DictConfig | None = None, done: Any = None) -> None:
        super().__init__(defaults)
        self.cfg, self.done = cfg, done


def _called(name: Any, repo: Any, overrides: Overrides, typed: Sequence[Override], more: Any) -> str | None:
    sources = [(source.scheme(), source.path, source.provider) for source in repo.get_sources()]
    if any(scheme != "file" and path not in ("hydra.conf", "") for scheme, path, _ in sources):
        return None
    of_keys = {id(override) for override in overrides.config_overrides}
    chosen = [str(o.input_line) for o in typed if id(o) not in of_keys and not o.is_sweep_override()]
    if any("${" in text for text in chosen):
        return None
    folders = [path for scheme, path, _ in sources if scheme == "file"]
    plugin = getattr(sys.modules.get(LAUNCHER_PLUGIN), "__version__", None)
    versions = (hydra.__version__, omegaconf.__version__, plugin, sources, sorted(_names(ConfigStore.instance().repo)))
    return cast("str | None", name(folders, chosen, *versions, more))


def _names(store: dict[str, Any]) -> Iterator[str]:
    for key, inner in store.items():
        yield key
        if isinstance(inner, dict):
            yield from _names(inner)


#: Resolvers of defaults lists that read what is on Hydra's search path, and nothing else.
OF_FILES = {"recipe_of", "data_of", "weights_of"}
#: Whose options conf/hydra/launcher takes, and who says that it is their provider.
LAUNCHER_PLUGIN, _PROVIDERS = "hydra_plugins.hydra_submitit_launcher", ("hydra", "submitit_launcher")


def _is_told_by_files(repo: Any) -> bool:
    """Whether what was composed came from files and Hydra itself: no other plugin's or recipe file's options, and no
    resolver in a defaults list that reads something else, as environment variables."""
    results = [result for result in repo.cache.values() if result is not None]
    lists = repr([result.defaults_list for result in results])
    return (
        all(result.path.startswith("file://") or result.provider in _PROVIDERS for result in results)
        and set(re.findall(r"\$\{\s*([\w.]+)\s*:", lists)) <= OF_FILES
        and "${${" not in lists
    )


def add_option(group: str, option: str, node: Any, package: str, provider: str) -> None:
    """An option of a group that Hydra finds though no file has it, for which `ConfigStore.store` would copy it."""
    folder: Any = ConfigStore.instance().repo
    for name in group.split("/"):
        folder = folder.setdefault(name, {})
    file = option if option.endswith(".yaml") else f"{option}.yaml"
    folder[file] = ConfigNode(file, node, group, package, provider)


def split_key(key: str) -> list[str]:
    """`a.b[0].c` -> ["a", "b", "0", "c"], by OmegaConf's own grammar, of which there is no public function."""
    return omegaconf._utils.split_key(key)


def yaml_rules() -> Any:
    """OmegaConf's YAML loader: what it takes for a number and which keys it refuses is written nowhere else."""
    return omegaconf._utils.get_yaml_loader()


def cache_parsing() -> None:
    """Let OmegaConf parse an interpolation once for each text.

    It parses it again for every value it computes, which is most of the time that computing takes. What the parser
    returns depends on the text alone, and its readers leave it as it is.
    """
    if grammar_parser.parse is omegaconf.base.parse:
        cached: Any = lru_cache(maxsize=4096)(grammar_parser.parse)
        omegaconf.base.parse = cached
        omegaconf._utils.parse = cached


#: OmegaConf's own, before `cache_reading`.
_read = OmegaConf.load


def cache_reading() -> None:
    """Let OmegaConf parse the text of a config file once, and in C where PyYAML has libyaml.

    Hydra reads each file anew for every composition, of which a command makes many.
    """
    OmegaConf.load = staticmethod(_load)  # type: ignore[method-assign]


def _load(file_: Any) -> DictConfig | ListConfig:
    """`OmegaConf.load`. What is unusual in a file, mistakes among it, is left to that, which has the words."""
    if not hasattr(file_, "read"):
        return _read(file_)
    begin = file_.tell()
    try:
        value = _parsed(file_.read())
    except (yaml.YAMLError, TypeError, ValueError):
        value = 0
    if value is not None and not isinstance(value, dict | list):
        file_.seek(begin)
        return _read(file_)
    return OmegaConf.create({} if value is None else value)


@lru_cache(maxsize=1024)
def _parsed(text: str | bytes) -> Any:
    return yaml.load(text, Loader=_quick_rules())


@cache
def _quick_rules() -> Any:
    rules, in_c = yaml_rules(), getattr(yaml, "cyaml", None)
    if in_c is None:
        return rules

    def begin(self: Any, stream: Any) -> None:
        in_c.CParser.__init__(self, stream)
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)

    return type("Quick", (in_c.CParser, rules), {"__init__": begin})


# --- nodes: public access resolves interpolations, and a family of points has to see them ---


def text_of(node: Any) -> Any:
    """A node's own value: the text of an interpolation, not what it reads."""
    return node._value()


def resolved(node: Any) -> Any:
    """What an interpolation's node has, as plain data. Raises OmegaConfBaseException where it cannot be computed."""
    target = node._dereference_node()
    if isinstance(target, Container):
        return OmegaConf.to_container(target, resolve=True, throw_on_missing=True)
    return target._value()


def plain_node(cfg: DictConfig, key: str) -> AnyNode | None:
    """The node of a dotted key, where it and all above it are plain: no interpolation, no null, no alias."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or node._is_interpolation() or node._is_none() or node._is_missing():
            return None
        node = node._get_node(part)
    return node if type(node) is AnyNode and not node._is_interpolation() else None


def interpolations(node: Any, path: Path = ()) -> dict[Path, Any]:
    """Path -> node of every interpolation below a node."""
    if node._is_interpolation():
        return {path: node}
    by_path: dict[Path, Any] = {}
    if isinstance(node, DictConfig | ListConfig) and not node._is_none() and not node._is_missing():
        keys: Any = node.keys() if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            by_path |= interpolations(node._get_node(key), (*path, key))
    return by_path


def are_untyped(cfg: DictConfig, but: str) -> bool:
    """Whether all values of a config, but for one section, may be of any kind: none comes from a structured config."""
    return all(_is_untyped(cfg._get_node(key)) for key in cfg if key != but)


def _is_untyped(node: Any) -> bool:
    if not isinstance(node, DictConfig | ListConfig):
        return type(node) is AnyNode
    if node._metadata.ref_type is not Any or node._is_interpolation() or node._is_none() or node._is_missing():
        return False
    keys: Any = node if isinstance(node, DictConfig) else range(len(node))
    return all(_is_untyped(node._get_node(key)) for key in keys)


def kinds(cfg: DictConfig) -> dict[str, str]:
    """Key -> the name of the type that its value has to have; "?" for a list or a mapping whose values are computed."""
    by_key: dict[str, str] = {}
    for key in cfg:
        node: Any = cfg._get_node(key)
        if isinstance(node, Container):
            by_key |= {str(key): "?"} if interpolations(node) else {}
        elif type(node) is not AnyNode:
            by_key[str(key)] = node._metadata.ref_type.__name__
    return by_key
