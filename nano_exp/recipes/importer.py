"""From a NeMo RL checkout to the files of conf/nemo_rl: base values, recipes, data, known keys. Nothing here writes.

A recipe becomes what it changes in its base, with our interpolations where they give the same value (table.yaml). What
comes out is composed in a copy of conf/ and compared with upstream's values key by key.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from nano_exp import dotted, files, project
from nano_exp.compose import compose, conf_tree, resolvers, resolving
from nano_exp.compose import recipe_file as own_recipe
from nano_exp.dotted import leaves
from nano_exp.errors import UserError
from nano_exp.nemo_rl import published, ties, upstream, versions
from nano_exp.nemo_rl.checkout import read_checkout
from nano_exp.nemo_rl.versions import KEYS_FILE, age, option, options
from nano_exp.recipes import key_lists
from nano_exp.store import run_config

#: NeMo RL looked for a parent's parents from the first file's folder before this version.
_OWN_FOLDERS_SINCE = (0, 6)
_ABSENT = "<no such key>"


@dataclass(frozen=True)
class Imported:
    """What a checkout gives.

    Parameters
    ----------
    option: of the group nemo_rl
    version: as its YAML has it: v0.7.0, or v0.6.0+<commit> for a commit that is not that version's
    texts: path below conf/ -> the file's text
    recipes: pair -> the recipe's values as upstream resolves them
    """

    option: str
    version: str
    commit: str | None
    texts: dict[Path, str]
    recipes: dict[str, dict[str, Any]]


def read(checkout: Path, name: str | None = None, conf: Path = conf_tree.CONF_DIR) -> Imported:
    """Read a checkout.

    Parameters
    ----------
    name: the option's name for a commit that is not a version's own (a branch); default: from the version, v0_7

    Raises
    ------
    UserError: not a checkout, no version, or types and recipes that cannot be read
    """
    if name is not None and (not re.fullmatch(r"[a-z]\w*", name) or re.fullmatch(r"v\d+_\d+|data", name)):
        raise UserError(
            f"--as {name}",
            "it becomes an option of the group nemo_rl: a small letter, then letters, digits or _; names such as v0_7 "
            "belong to releases, and `data` is taken",
            "--as main",
        )
    resolvers.register()
    release = read_checkout(checkout)
    if release.version is None:
        raise UserError(
            f"{checkout} does not say its version",
            "nemo_rl/package_info.py, which has it, is missing or not as expected",
            "name the folder of a NeMo RL checkout: nano-exp recipes import /path/to/RL",
        )
    version = f"v{release.version}"
    if name is not None:
        version += f"+{release.commit[:12] if release.commit else name}"
    work = _Work(checkout, name or option(version), version, release.commit, conf, published.read())
    return work.imported()


class _Work:
    """One import."""

    def __init__(
        self, checkout: Path, option: str, version: str, commit: str | None, conf: Path, entries: published.Table
    ) -> None:
        self.checkout, self.option, self.version, self.commit, self.table = checkout, option, version, commit, entries
        self.conf = conf
        self.optimizer = files.read_yaml(project.at(conf / "optimizer" / "adamw.yaml"))
        self.old_paths = versions.order(version.partition("+")[0]) < _OWN_FOLDERS_SINCE  # a fork of an old one too

    def imported(self) -> Imported:
        texts: dict[Path, str] = {}
        bases: dict[Path, tuple[str, dict[str, Any]]] = {}
        for name, file in self.table.bases.items():
            recipe = self.load(file)
            if recipe is not None:
                bases[recipe.path.resolve()] = (name, self.values_of(recipe, file, None))
                texts[self.folder / "base" / f"{name}.yaml"] = self.text(file, [], bases[recipe.path.resolve()][1])
        values = {}
        for pair in (*self.table.pairs, *self.table.same_as, *self.table.recipes):
            file = self.table.file_of(pair)
            recipe = self.load(file)
            if recipe is None:
                continue
            if pair in self.table.same_as:  # the same file on other nodes, which some of its values follow
                shape = project.at(self.conf / "cluster" / f"{_cluster(pair)}.yaml")
                recipe.config.merge_with({"cluster": files.read_yaml(shape)})
            values[pair] = upstream.resolved(recipe.config)
            if pair in self.table.same_as:
                parents = [f"/nemo_rl/{self.option}/{self.table.same_as[pair]}@_global_"]
                texts[self.folder / f"{pair}.yaml"] = self.text(file, parents, {})
                continue
            parents, changed = self.changes(recipe, bases, self.values_of(recipe, file, self.table.model_of(pair)))
            named = pair in self.table.recipes
            head = {"nemo_rl": {"recipe": file}, **({"run": {"name": pair}} if named else {})}
            texts[self.folder / ("recipes" if named else "") / f"{pair}.yaml"] = self.text(
                file, parents, head | changed
            )
        for name, file in self.table.data.items():
            recipe = self.load(file)
            if recipe is not None:
                model = next((self.table.model_of(p) for p, f in self.table.pairs.items() if f == file), None)
                data = self.values_of(recipe, file, model, only=self.table.data_keys)
                texts[Path("nemo_rl", "data", self.option, f"{name}.yaml")] = self.text(file, [], data)
        if not values:
            raise UserError(
                f"{self.checkout} has none of the recipes of nano_exp/nemo_rl/table.yaml",
                "the recipes of the Nano models are what this project starts from",
                "check out NeMo RL v0.5.0 or later there",
            )
        texts[Path("nemo_rl", f"{self.option}.yaml")] = self.head()
        key_list = key_lists.collect(self.checkout, self.version, self.commit, self.old_paths)
        texts[self.folder / KEYS_FILE] = key_lists.dump(key_list)
        return Imported(self.option, self.version, self.commit, texts, values)

    @property
    def folder(self) -> Path:
        return Path("nemo_rl", self.option)

    def load(self, file: str) -> upstream.Recipe | None:
        path = self.checkout / file
        return upstream.load(path, self.old_paths) if path.is_file() else None

    def values_of(
        self, recipe: upstream.Recipe, file: str, model: str | None, only: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """A recipe's values as this project writes them; with `only`, of those keys alone."""
        config = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(recipe.config, resolve=False)))
        for key in self.table.own_keys:
            if ties.has(config, key):
                OmegaConf.update(config, key, None)
        for entry in [entry for entry in self.table.additions if self.is_due(entry, config, file)]:
            OmegaConf.update(config, entry.key, entry.value, force_add=True)
        facts = files.read_yaml(project.at(self.conf / "model" / f"{model}.yaml"))["model"] if model else {}
        knobs = ties.knobs(config, self.optimizer)
        ties.tie(config, {"optimizer": {**self.optimizer, **knobs}, "model": facts}, self.table.ties)
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
        if only is not None:
            return _only(plain, only)
        plain = own_recipe.without(plain, (*self.table.data_keys, *self.table.cluster_keys))
        return {"optimizer": knobs, **plain} if knobs else plain

    def is_due(self, entry: published.Addition, config: DictConfig, file: str) -> bool:
        """Whether a recipe gets an addition."""
        if file not in entry.files or versions.order(self.version) < versions.order(entry.since):
            return False
        if entry.instead_of is not None:
            return bool(ties.value_of(config, entry.key) == entry.instead_of)
        return ties.lacks(config, entry.key)

    def changes(
        self, recipe: upstream.Recipe, bases: Mapping[Path, tuple[str, dict[str, Any]]], values: dict[str, Any]
    ) -> tuple[list[str], dict[str, Any]]:
        """The base that a recipe stands on and what it changes there; no base where it takes keys away."""
        for path, (name, base) in bases.items():
            if path in recipe.files:
                changed = _difference(base, values)
                if changed is not None:
                    return [f"/nemo_rl/{self.option}/base/{name}@_global_", "_self_"], changed
        return [], values

    def text(self, file: str, parents: list[str], values: dict[str, Any]) -> str:
        lines = [
            "# @package _global_",
            f"# NeMo RL {self.version}, {file}.",
            "# Written by `nano-exp recipes import`, not by hand; what is ours in it: nano_exp/nemo_rl/table.yaml.",
        ]
        body = {"defaults": parents, **values} if parents else values
        return "\n".join(lines) + "\n" + (files.dump_yaml(body) if body else "")

    def head(self) -> str:
        scripts = {
            kind: next((name for name in names if (self.checkout / name).is_file()), names[0])
            for kind, names in self.table.scripts.items()
        }
        values = {"version": self.version, "commit": self.commit, "scripts": scripts}
        return "# Written by `nano-exp recipes import`, not by hand.\n" + files.dump_yaml(values)


@contextmanager
def tree(imported: Imported, conf: Path = conf_tree.CONF_DIR) -> Iterator[Path]:
    """A copy of conf/ with the imported files in it."""
    with tempfile.TemporaryDirectory(prefix="nano-exp-") as folder:
        copy = Path(folder) / "conf"
        project.copy(conf, copy)
        write(imported, copy)
        yield copy


def write(imported: Imported, conf: Path) -> None:
    """Put the files below conf/; files of an earlier import that the checkout no longer gives are removed."""
    for folder in (conf / "nemo_rl" / imported.option, conf / "nemo_rl" / "data" / imported.option):
        for path in folder.rglob("*.yaml") if folder.is_dir() else ():
            if path.relative_to(conf) not in imported.texts and "recipes import" in path.read_text()[:400]:
                path.unlink()
    for below, text in imported.texts.items():
        files.make_dir((conf / below).parent)
        files.write_text(conf / below, text)


def before(imported: Imported, conf: Path) -> str | None:
    """The option to compare with: the newest one before it."""
    older = [option for option in options(conf / "nemo_rl") if age(option) < age(imported.option)]
    return older[-1] if older else None


def new_texts(imported: Imported, conf: Path) -> list[Path]:
    """The files below conf/ that are not there yet or would change."""
    there = {below: project.at(conf / below) for below in imported.texts}
    return [b for b, text in imported.texts.items() if not there[b].is_file() or there[b].read_text() != text]


def refuse_another_commit(imported: Imported, conf: Path) -> None:
    """A branch calls itself what the release before it was called: it must not take that release's place.

    Raises
    ------
    UserError: the option was written from another commit, or the checkout does not say its own
    """
    try:
        written = files.read_yaml(project.at(conf / "nemo_rl" / f"{imported.option}.yaml"))
    except FileNotFoundError:
        return
    commit = written.get("commit")
    same = written.get("version") == imported.version and "+" not in imported.version
    if not same or not commit or commit == imported.commit:
        return
    place, beside = f"{conf}/nemo_rl/{imported.option}", "keep it beside the release: --as main (any name)"
    if imported.commit is None:
        raise UserError(
            f"this checkout calls itself {imported.version} and has no .git that says its commit",
            f"{place} is of commit {commit[:12]}; a branch calls itself by the release before it, so this may be one",
            beside,
        )
    raise UserError(
        f"this checkout is at {imported.commit[:12]} and calls itself {imported.version}",
        f"{place} is of that version's commit {commit[:12]}, which this is not",
        f"git checkout {imported.version} there, or {beside}",
    )


def pairs(conf: Path, option: str) -> list[str]:
    """The pairs and names with a recipe file of NeMo RL's at an option; the tiny run's are none."""
    entries = published.read()
    folder = conf / "nemo_rl" / option
    here = [pair for pair in (*entries.pairs, *entries.same_as) if project.at(folder / f"{pair}.yaml").is_file()]
    return here + [name for name in entries.recipes if project.at(folder / "recipes" / f"{name}.yaml").is_file()]


def composed(conf: Path, option: str) -> dict[str, dict[str, Any]]:
    """Pair -> dotted key -> value of what NeMo RL would get, before a run's own folders are put in."""
    configs = {}
    with conf_tree.loader(conf) as config_loader:
        for pair in pairs(conf, option):
            point = [*published.read().words(pair), f"nemo_rl={option}"]
            config = resolving.resolve(compose.compose(config_loader, point))
            configs[pair] = leaves(run_config.engine_config(config))
    return configs


def not_upstreams(imported: Imported, configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where what composes is not what upstream resolves, but for what the table declares; one line each."""
    entries = published.read()
    lines = []
    for pair, recipe in imported.recipes.items():
        declared = {*entries.own_keys, *(a.key for a in entries.additions if entries.file_of(pair) in a.files)}
        theirs = leaves(recipe)
        for key in sorted(theirs.keys() | configs[pair].keys()):
            a, b = theirs.get(key, _ABSENT), configs[pair].get(key, _ABSENT)
            if repr(a) != repr(b) and key not in declared:
                lines.append(f"{pair}: {key}: upstream {a!r}, composed {b!r}")
    return lines


def _cluster(pair: str) -> str:
    return pair.rpartition("_")[2]


def _difference(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What merging over `base` gives `values`; None where a key would have to go away."""
    changed: dict[str, Any] = {}
    if any(key not in values for key in base):
        return None
    for key, value in values.items():
        if key in base and isinstance(value, dict) and isinstance(base[key], dict):
            below = _difference(base[key], value)
            if below is None:
                return None
            if below:
                changed[key] = below
        elif key not in base or repr(base[key]) != repr(value):
            changed[key] = value
    return changed


def _only(config: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    section: dict[str, Any] = {}
    for key in keys:
        node: Any = config
        for part in key.split("."):
            node = node.get(part, _ABSENT) if isinstance(node, Mapping) else _ABSENT
        if node is not _ABSENT:
            dotted.set_dotted(section, key, node)
    return section
