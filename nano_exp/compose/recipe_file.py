"""`recipe=path/to/any.yaml`: a recipe file of the user's, or another one of NeMo RL's, in the place of a published one.

The file is merged with its parents and handed to Hydra as options that lie in no folder: `recipe=<as typed>` picks
the model, its data, its nodes and its optimizer knobs, each unless typed, and the values themselves stand where those
of a published recipe would. So what is typed beside it means what it means everywhere.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from nano_exp import files, hydra_internals, project
from nano_exp.compose import conf_tree
from nano_exp.dotted import at
from nano_exp.errors import UserError
from nano_exp.overrides import Override

_KEY = "recipe"
#: What the file's own data and nodes are called as options of their groups (conf/data, conf/cluster).
DATA, CLUSTER = "default/recipe", "published"
#: What a layout of conf/parallelism changes, or takes its warm-up from, and so needs to find.
_LAYOUT_NEEDS = ("megatron_cfg.optimizer", "megatron_cfg.scheduler", "dynamic_batching", "sequence_packing")


@dataclass(frozen=True)
class _Entered:
    """A file that Hydra knows: what it was made from, and which of `_LAYOUT_NEEDS` it lacks."""

    stamp: tuple[tuple[Path, int, int], ...]
    lacking: tuple[str, ...]


_entered: dict[tuple[str, ...], _Entered] = {}


def register(words: Sequence[str], conf: Path) -> None:
    """Make the recipe files that overrides name known to Hydra, before it composes; without one nothing is done.

    Raises
    ------
    UserError: a file that cannot be read, is not a recipe of GRPO's, or does not go with what is typed beside it
    """
    named = [word for word in words if _chooses(word, _KEY)]
    if not named:
        return
    for typed in _paths(named):
        key = (typed, str(Path.cwd()), *_site(words))
        entry = _entered.get(key)
        if entry is None or entry.stamp != _stamp([path for path, *_ in entry.stamp]):
            entry = _entered[key] = _enter(typed, words, conf)
        _refuse_layout(typed, entry.lacking, words)


def _stamp(paths: Iterable[Path]) -> tuple[tuple[Path, int, int], ...]:
    try:
        return tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    except OSError:
        return ()


def _paths(named: Sequence[str]) -> list[str]:
    """What is typed after recipe= that is a path; names of conf/recipe, and what does not parse, are Hydra's."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from nano_exp.compose.conf_tree import choices_of

    try:
        parsed = OverridesParser.create().parse_overrides(list(named))
        values = [str(value) for override in parsed for value in choices_of(override)]
    except HydraException:
        return []
    return list(dict.fromkeys(value for value in values if is_path(value)))


def is_path(value: object) -> bool:
    """Whether a value of recipe= names a file; else it is an option of conf/recipe."""
    return "/" in str(value) or str(value).endswith((".yaml", ".yml"))


def _find(typed: str, words: Sequence[str]) -> Path:
    """The file: relative to the launch folder, or below the checkout."""
    here = Path(typed).expanduser()
    if here.is_file():
        return here.resolve()
    checkout = None if here.is_absolute() else _checkout(words)
    if checkout is not None and (checkout / typed).is_file():
        return (checkout / typed).resolve()
    looked = f"{Path.cwd()}" + (f" nor in {checkout}" if checkout else "")
    raise UserError(
        f"recipe={typed}",
        "there is no such file" + ("" if here.is_absolute() else f" in {looked}"),
        "recipe=/path/to/a/recipe.yaml; for a path inside NeMo RL's checkout (examples/...) site.checkout=/path/to/RL",
    )


def _checkout(words: Sequence[str]) -> Path | None:
    """site.checkout, as the site and the command line say; it is asked for only where a path is not found without."""
    from hydra.core.global_hydra import GlobalHydra

    site_words = _site(words)
    if GlobalHydra.instance().is_initialized():
        config_loader = GlobalHydra.instance().config_loader()
        checkout = conf_tree.plain(config_loader, site_words).site.checkout
    else:
        with conf_tree.loader() as config_loader:
            checkout = conf_tree.plain(config_loader, site_words).site.checkout
    return Path(str(checkout)).expanduser().absolute() if checkout else None


def _chooses(word: str, group: str) -> bool:
    typed = Override.parse(word)
    return typed.key == group and typed.has_value and not typed.sign


def _site(words: Sequence[str]) -> list[str]:
    return [word for word in words if Override.parse(word).section == "site"]


def _enter(typed: str, words: Sequence[str], conf: Path) -> _Entered:
    """Make Hydra's options for one file."""
    from omegaconf import OmegaConf

    from nano_exp.compose import resolvers
    from nano_exp.nemo_rl import published, ties, upstream

    resolvers.register()
    entries, path = published.read(), _find(typed, words)
    # A file outside of the checkout may name parents inside it: examples/configs/grpo_math_1B.yaml.
    recipe = upstream.load(path, elsewhere=lambda: _checkout(words))
    config = recipe.config
    _refuse_content(path, config)
    lacking = tuple(f"policy.{key}" for key in _LAYOUT_NEEDS if OmegaConf.select(config.policy, key) is None)
    for key in entries.own_keys:  # an absolute folder is the user's wish: the run's name and id are appended to it
        if ties.has(config, key) and not str(ties.value_of(config, key)).startswith("/"):
            OmegaConf.update(config, key, None)
    for entry in entries.additions:
        if any(str(file).endswith(entry.files) for file in recipe.files) and ties.lacks(config, entry.key):
            OmegaConf.update(config, entry.key, entry.value, force_add=True)
    digest = hashlib.sha256("".join(f"{file}{sha}" for file, sha in recipe.files.items()).encode()).hexdigest()
    file_option = f"own/{digest[:16]}"
    model, facts = _model_of(config, conf)
    adamw = files.read_yaml(project.at(conf / "optimizer" / "adamw.yaml"))
    optimizer = {**adamw, **ties.knobs(config, adamw)}
    ties.tie(config, {"optimizer": optimizer, "model": facts}, entries.ties)
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    record = {"recipe": str(path), "recipe_files": {str(p): h for p, h in recipe.files.items()}}
    whole = {"nemo_rl": record, "run": {"name": _name(path)}, **plain}

    full, bare = OmegaConf.create(whole), OmegaConf.create(without(whole, entries.data_keys))
    for data in [DATA, *(p.stem for p in project.glob(conf / "data", "*.yaml"))]:
        _option(f"nemo_rl/{file_option}/{data}", full if data == DATA else bare, "_global_")
    _option(f"optimizer/{file_option}", OmegaConf.create(optimizer), "optimizer")
    if model is None:
        _option(f"model/{file_option}", OmegaConf.create(facts), "model")
    picks = {"nemo_rl@_global_": f"{file_option}/${{data}}", "optimizer": file_option, "model": model or file_option}
    picks |= {"data": DATA, "cluster": CLUSTER}
    defaults = [{f"override /{group}": option} for group, option in picks.items()]
    _option(f"{_KEY}/{typed}", OmegaConf.create({"defaults": defaults}), "_global_")
    return _Entered(_stamp(recipe.files), lacking)


def _option(name: str, node: Any, package: str) -> None:
    """An option of a group that Hydra finds though no file has it."""
    *groups, option = [part for part in name.split("/") if part]
    hydra_internals.add_option("/".join(groups), option, node, package, provider="recipe")


def without(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """A copy without these dotted keys."""
    copied = copy.deepcopy(dict(config))
    for key in keys:
        *path, leaf = key.split(".")
        if isinstance(node := at(copied, tuple(path)), dict):
            node.pop(leaf, None)
    return copied


def _model_of(config: Any, conf: Path) -> tuple[str | None, dict[str, Any]]:
    """The option of the group model that a recipe trains, and the facts of it; no option for a model of its own.

    A model of its own has the facts of the one whose tokenizer it takes, as a base model has.
    """
    from nano_exp.nemo_rl import ties

    known = {}
    for path in project.glob(conf / "model", "*.yaml"):
        facts = files.read_yaml(path).get("model") or {}
        known[facts.get("hf_id")] = (path.stem, facts)
    name, tokenizer = (ties.value_of(config, key) for key in ("policy.model_name", "policy.tokenizer.name"))
    if isinstance(name, str) and name in known:
        return known[name]
    plain = {"name": "other", "tool_parser": {"name": None, "plugin": None}}
    _, facts = known.get(tokenizer, (None, plain)) if isinstance(tokenizer, str) else (None, plain)
    return None, {**facts, "hf_id": name if isinstance(name, str) else None}


def _name(path: Path) -> str:
    """The runs' folder: the file's name, as far as a name may have its letters."""
    return re.sub(r"[^\w.+=@-]", "_", path.stem).lstrip(".+=@-")[:100] or _KEY


def _refuse_content(path: Path, config: Any) -> None:
    from nano_exp.store.run_config import LAUNCHER_KEYS

    missing = [section for section in ("grpo", "policy", "checkpointing", "logger", "cluster") if section not in config]
    if missing:
        sections = ", ".join(str(key) for key in config) or "nothing"
        raise UserError(
            f"recipe={path} has no section {', '.join(missing)} (it has: {sections})",
            "a GRPO recipe of NeMo RL has them, its parents' included",
            "begin it with `defaults: examples/configs/grpo_math_1B.yaml`, or name another file",
        )
    launcher_sections = [key for key in (*LAUNCHER_KEYS, "hydra", "sweep") if key in config]
    if launcher_sections:
        raise UserError(
            f"recipe={path} has a section {', '.join(launcher_sections)}",
            "that section belongs to this launcher, not to NeMo RL",
            f"take it out of the file and type it: {launcher_sections[0]}...=",
        )


def _refuse_layout(typed: str, lacking: Sequence[str], words: Sequence[str]) -> None:
    """A layout changes sections that a recipe need not have."""
    layouts = [w for w in words if _chooses(w, "parallelism") and Override.parse(w).unquoted != "published"]
    if layouts and lacking:
        raise UserError(
            f"{layouts[0]} with recipe={typed}",
            f"a layout changes or reads {', '.join(lacking)}, which this recipe does not have",
            "leave parallelism= out and type the keys, or give the file `defaults: examples/configs/grpo_math_1B.yaml`",
        )
