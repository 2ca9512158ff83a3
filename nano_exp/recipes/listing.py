"""What can be launched as it is: each (model, cluster) and each recipe by name, with the versions that have it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nano_exp import files, project
from nano_exp.compose import nearest
from nano_exp.nemo_rl import versions


@dataclass(frozen=True)
class Listed:
    """One recipe.

    Parameters
    ----------
    words: what to type for it
    file: NeMo RL's own file, below its checkout, of the newest version that has it
    versions: the options of nemo_rl= that have it, oldest first
    """

    words: str
    file: str
    versions: tuple[str, ...]


def listed(conf: Path) -> list[Listed]:
    """Every recipe of every version in conf/nemo_rl, by what is typed."""
    rows: dict[str, Listed] = {}
    for version in versions.options(conf / "nemo_rl"):
        folder = conf / "nemo_rl" / version
        pairs = nearest.recipes(version, conf)
        files = {f"model={m} cluster={c}": project.at(folder / f"{m}_{c}.yaml") for m, c in pairs}
        files |= {f"recipe={path.stem}": path for path in project.glob(folder / "recipes", "*.yaml")}
        for words, path in files.items():
            before = rows[words].versions if words in rows else ()
            rows[words] = Listed(words, _file(path), (*before, version))
    return sorted(rows.values(), key=lambda one: one.words)


def _file(path: Path) -> str:
    """The upstream file that an option names; one that is made of another option (the same recipe) has that one's."""
    whole = files.read_yaml(path)
    if "recipe" in whole.get("nemo_rl", {}):
        return str(whole["nemo_rl"]["recipe"])
    other = str(whole["defaults"][0]).partition("@")[0]
    return _file(project.at(path.with_name(f"{Path(other).name}.yaml")))
