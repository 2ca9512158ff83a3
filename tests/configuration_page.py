"""docs/configuration.md: the launcher's own keys with their defaults and comments, from conf/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"
#: Files of conf/ -> where their keys stand in a config, and what they are.
FILES = {
    "config.yaml": ("", "Launches and runs"),
    "site/default.yaml": ("site", "The place: a site's file changes these"),
    "engine/nemo_rl.yaml": ("engine", "The engine nemo_rl"),
    "engine/embedded.yaml": ("engine", "The engine embedded"),
    "optimizer/adamw.yaml": ("optimizer", "The optimizer, one knob for both of NeMo RL's backends"),
    "cluster/1n8g.yaml": ("cluster", "A cluster's shape"),
}
_HEAD = """# Configuration: every key of the launcher

Written by `make docs` from `conf/`, where the comments stand. NeMo RL's own keys (`grpo`, `policy`, `loss_fn`, `data`,
`env`, `checkpointing`, `logger`) keep their paths and their documentation: `python launch.py ... --cfg job` shows them
with their values, `nano-exp render` what NeMo RL gets. Any parameter of hydra-submitit-launcher is
`hydra.launcher.<name>`.
"""


def written() -> str:
    """The page's text."""
    sections = [_HEAD]
    for name, (above, title) in FILES.items():
        rows = [
            f"| `{key}` | {f'`{value}`' if value else ''} | {words} |"
            for key, value, words in keys(ROOT / "conf" / name, above)
        ]
        sections.append(
            "\n".join((f"## {title}\n\n`conf/{name}`\n", "| key | default | |", "|---|---|---|", *rows)) + "\n"
        )
    return "\n".join(sections)


def keys(path: Path, above: str) -> Iterator[tuple[str, str, str]]:
    """Dotted key, default and comment of a file's keys; what is Hydra's own is left out."""
    text = path.read_text()
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, str, str]]:
        for key, value in node.value:
            name = f"{prefix}.{key.value}" if prefix else str(key.value)
            if name in ("defaults", "hydra") or name.startswith("hydra."):
                continue
            if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
                yield from walk(value, name)
                continue
            default = (
                ""
                if isinstance(value, yaml.MappingNode)
                else _escaped(text[value.start_mark.index : value.end_mark.index])
            )
            yield name, default, _escaped(_comment(lines, key.start_mark.line))

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    package = re.search(r"@package\s+(\S+)", lines[0])
    yield from walk(root, "" if package and package[1] == "_global_" else above)


def _comment(lines: list[str], line: int) -> str:
    """What stands behind a key, or above it, and goes on below it."""
    _, _, behind = lines[line].partition(" #")
    if behind:
        more = []
        for following in lines[line + 1 :]:
            if not re.match(r"\s{12,}#", following):
                break
            more.append(following.strip().lstrip("# "))
        return " ".join([behind.strip(), *more])
    over: list[str] = []
    for before in reversed(lines[1:line]):  # the first line is the file's own
        if not re.match(r"\s*#", before):
            break
        over.insert(0, before.strip().lstrip("# "))
    return " ".join(over)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
