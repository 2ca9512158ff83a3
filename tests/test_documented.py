"""What is shipped and documented works: no command of the pages, and no sweep on any published recipe, is refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from core_case import frozen, spread

from nano_exp import files, preflight
from nano_exp.compose import nearest
from nano_exp.errors import UserError
from nano_exp.launch import gather, points
from nano_exp.store import run_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
ON_EACH = [(sweep, model, cluster) for sweep in SWEEPS for model, cluster in nearest.recipes("v0_7")]
#: Words that stand for something of the reader's, and what they are here.
READERS = {
    "site=mysite": "site=minicluster",
    "site=<name>": "site=minicluster",
    "recipe=path/to/mine.yaml": "recipe={recipe}",
    "recipe=a.yaml,b.yaml": "recipe={recipe}",
}
#: Commands of nano-exp that take a launch's overrides.
TAKE = "check|render|plan|launch|doctor|prepare"
#: What is no whole command, or works with a checkout, a search or a result that is not here.
NOT_HERE = ("...", "$@", "hydra/sweeper=optuna", "recipe=examples/", "--config", "<key>", "my_nano_9b")


def commands() -> list[str]:
    """The overrides of everything in the pages that takes a launch's, in the order of the pages; equal ones once."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += re.findall(rf"^[ $]*(?:python launch\.py|nano-exp (?:{TAKE})) (.+)$", text, re.MULTILINE)
        found += re.findall(
            rf"`(?:python launch\.py|nano-exp (?:{TAKE})|sbatch (?:-N2 )?slurm/train\.sbatch) ([^`]+)`", text
        )
    bare = [line.split(" #")[0].split(" > ")[0].strip() for line in found]
    whole = (line for line in bare if "=" in line and not any(word in line for word in NOT_HERE))
    return list(dict.fromkeys(shlex.join(word for word in shlex.split(line) if "=" in word) for line in whole))


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a launch of these words would be refused for, but for what is about this machine."""
    monkeypatch.setenv("PATH", "/nowhere")  # no Slurm here
    try:
        wanted = points.expanded(words)
        report = preflight.examine(
            wanted.frozen, gather.facts(wanted.frozen, wanted.parameters, submitting=False), (preflight.PLACE,)
        )
    except UserError as error:
        return str(error)
    assert wanted.frozen
    return "\n".join(f"{group.finding.found}: {group.finding.cause}" for group in report.errors)


def test_the_pages_have_commands() -> None:
    assert len(commands()) > 20


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file of the reader's."""
    path = tmp_path_factory.mktemp("recipes") / "mine.yaml"
    path.write_text(
        files.dump_yaml(run_config.engine_config(frozen(path.parent, "model=nano_9b", "cluster=1n8g").config))
    )
    return path


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_is_not_refused(command: str, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [READERS.get(word, word).replace("{recipe}", str(recipe)) for word in shlex.split(command)]
    monkeypatch.chdir(ROOT)
    assert refused(words, monkeypatch) == ""


@pytest.mark.parametrize(("sweep", "model", "cluster"), spread(ON_EACH, 6))
def test_a_shipped_sweep_works_on_every_published_recipe(
    sweep: str, model: str, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"sweeps={sweep}", f"model={model}", f"cluster={cluster}"]
    if sweep == "throughput" and model == "nano_tiny":
        assert "nothing to lay out" in refused(words, monkeypatch), "layouts are NeMo RL's"
    elif sweep == "throughput" and cluster == "32n8g":
        assert "by the planner's estimate" in refused(words, monkeypatch), "49152 tokens do not fit every layout"
    else:
        assert refused(words, monkeypatch) == ""
