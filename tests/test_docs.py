"""The documentation says what the code does: tables made from the code are in it, and its commands work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nano_exp.preflight import wording as preflight_show
from nano_exp.store.identity import LEFT_OUT
from nano_exp.store.state import MEANING

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PREFLIGHT = (ROOT / "docs" / "preflight.md").read_text()
STORE = (ROOT / "docs" / "store.md").read_text()


def test_store_page_lists_exactly_what_identity_leaves_out() -> None:
    section = STORE.split("## Identity")[1].split("## States")[0]
    listed = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
    assert listed == LEFT_OUT


def test_store_page_lists_every_state() -> None:
    section = STORE.split("## States")[1]
    listed = dict(re.findall(r"^\| (\w+) \| (.+) \| .+ \|$", section, re.MULTILINE))
    assert {k: v for k, v in listed.items() if k != "state"} == {k: meaning for k, (meaning, _) in MEANING.items()}


def test_preflight_page_has_the_table_of_rules() -> None:
    assert PREFLIGHT.endswith(preflight_show.rules_table() + "\n"), "nano-exp check --rules writes it"


def test_readme_lists_every_option_of_every_group() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", README.split("## Choose and change")[1], re.MULTILINE))
    for group in ("model", "cluster", "parallelism", "generation", "data", "optimizer", "engine", "nemo_rl", "sweeps"):
        options = {p.stem for p in (ROOT / "conf" / group).glob("*.yaml")}
        assert options <= set(re.findall(r"`(\w+)`", rows[group])), group


def test_readme_names_every_page() -> None:
    pages = {f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"docs/[\w-]+\.md", README))


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python launch.py") or line.startswith("nano-exp render")]


@pytest.mark.parametrize("command", commands())
def test_readme_commands_compose(command: str, tmp_path: Path) -> None:
    words = command.split(" > ")[0].replace("site=mysite", "site=minicluster").split()
    if words[0] == "python":
        words = [sys.executable, str(ROOT / "launch.py"), *words[2:], f"site.checkout={ROOT / 'tests' / 'standin'}"]
        words += [f"site.python={sys.executable}", *([] if "dry_run=true" in words else ["dry_run=true"])]
    else:
        words = [sys.executable, "-m", "nano_exp.cli", *words[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("plan:" if "dry_run=true" in words else "grpo:") in done.stdout
    assert list(tmp_path.iterdir()) == []
