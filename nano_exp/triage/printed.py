"""The config that NeMo RL prints before it starts: for logs of which nothing else is known.

Its scripts say "Final config:" and then pprint a dict, or MasterConfig(policy={...}, loss_fn=ClippedPGLossConfig(...)).
"""

from __future__ import annotations

import ast
from typing import Any

_HEAD = "Final config:"
#: The longest one in NVIDIA's recipes has some 400.
MOST_LINES = 2000


def config(stdout: str) -> dict[str, Any]:
    """The sections with their values; empty where none, or only half of one, was printed. Never raises."""
    _, head, rest = stdout.partition(f"{_HEAD}\n")
    if not head:
        return {}
    lines = rest.split("\n", MOST_LINES)[:MOST_LINES]
    # It ends at the first line that does not belong to it: pprint indents all lines but the first.
    end = next((n for n, line in enumerate(lines) if n and not line.startswith(" ")), len(lines))
    try:
        config = _value(ast.parse("\n".join(lines[:end]), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _value(node: ast.expr) -> Any:
    """A literal; an object as the mapping of its keywords; None for anything else."""
    if isinstance(node, ast.Call):
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        pairs = (
            (_value(key) if key else None, _value(value)) for key, value in zip(node.keys, node.values, strict=True)
        )
        return {key: value for key, value in pairs if isinstance(key, str)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
