"""The documentation says what the code does: tables made from the code are in it, and its commands work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import configuration_page
import pytest

from nano_exp.preflight import wording as preflight_show
from nano_exp.store.identity import LEFT_OUT
from nano_exp.store.state import MEANING

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
CHOICES = (DOCS / "choices.md").read_text()
PREFLIGHT = (ROOT / "docs" / "preflight.md").read_text()
STORE = (ROOT / "docs" / "store.md").read_text()


def test_store_page_lists_exactly_what_identity_leaves_out() -> None:
    section = STORE.split("## Identity")[1].split("## States")[0]
    listed = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
    assert listed == LEFT_OUT


def test_store_page_lists_every_state() -> None:
    section = STORE.split("## States")[1]
    listed = dict(re.findall(r"^\| ([\w ]+) \| (.+) \| .+ \|$", section, re.MULTILINE))
    assert {k: v for k, v in listed.items() if k != "state"} == {k: meaning for k, (meaning, _) in MEANING.items()}


def test_preflight_page_has_the_table_of_rules() -> None:
    assert PREFLIGHT.endswith(preflight_show.rules_table() + "\n"), "nano-exp check --rules writes it"


def test_choices_lists_every_option_of_every_group() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", CHOICES, re.MULTILINE))
    shown = (
        "model",
        "cluster",
        "parallelism",
        "generation",
        "data",
        "optimizer",
        "engine",
        "nemo_rl",
        "stop",
        "sweeps",
    )
    for group in shown:
        options = {p.stem for p in (ROOT / "conf" / group).glob("*.yaml")}
        assert options <= set(re.findall(r"`(\w+)`", rows[group])), group


def test_the_index_and_the_site_name_every_page() -> None:
    pages = {path.name for path in DOCS.glob("*.md")}
    assert pages - {"index.md"} == set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert pages == set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text()))


def test_configuration_page_is_what_conf_says() -> None:
    assert configuration_page.PAGE.read_text() == configuration_page.written(), "make docs writes it"


def anchors(page: Path) -> set[str]:
    """What GitHub and the site call a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *DOCS.glob("*.md")]
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(page.parent), f"{target}: not on the site"
        assert not anchor or anchor in anchors(there), target


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 110


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python launch.py") or line.startswith("nano-exp render")]


@pytest.mark.parametrize("command", commands())
def test_readme_commands_compose(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.split(" > ")[0].replace("site=mysite", "site=minicluster"))
    if words[0] == "python":
        words = [sys.executable, str(ROOT / "launch.py"), *words[2:], f"site.checkout={ROOT / 'tests' / 'standin'}"]
        words += [f"site.python={sys.executable}", *([] if "dry_run=true" in words else ["dry_run=true"])]
    else:
        words = [sys.executable, "-m", "nano_exp.cli", *words[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("plan:" if "dry_run=true" in words else "grpo:") in done.stdout
    assert list(tmp_path.iterdir()) == []
