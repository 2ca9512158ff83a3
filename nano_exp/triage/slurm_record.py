"""What Slurm's accounting says of a job, and its lists of nodes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

#: Most nodes that a list is expanded to: a damaged list must not fill the memory.
MAX_NODES = 4096


@dataclass(frozen=True)
class SlurmRecord:
    """One incarnation of a job, as sacct or scontrol has it.

    Parameters
    ----------
    state: COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, PREEMPTED, CANCELLED, ...
    exit_code: "code:signal" as sacct prints it ("0:9"), or ""
    nodes: the allocation's node names
    reason: Slurm's reason, or ""
    by: who cancelled it (user id or name), or ""
    """

    state: str = ""
    exit_code: str = ""
    nodes: tuple[str, ...] = ()
    reason: str = ""
    by: str = ""

    @classmethod
    def of(cls, state: str, exit_code: str = "", nodes: str = "", reason: str = "") -> SlurmRecord:
        """From sacct's columns: State ("CANCELLED by 1001" too), ExitCode, NodeList, Reason."""
        state_words = state.split()
        name = state_words[0].rstrip("+").upper() if state_words else ""
        by = state_words[2] if len(state_words) > 2 and state_words[1] == "by" else ""
        return cls(name, exit_code, expand_nodes(nodes), "" if reason in ("None", "Unknown") else reason, by)

    @property
    def signal(self) -> int:
        """The signal of "code:signal", or 0."""
        _, _, text = self.exit_code.partition(":")
        return int(text) if text.isdecimal() and len(text) < 4 else 0


def expand_nodes(text: str) -> tuple[str, ...]:
    """Slurm's short list of nodes, whole: "a[01-03,7]-x,b" -> a01-x a02-x a03-x a7-x b. Anything else gives ()."""
    if not text or text.lower() in ("none assigned", "(null)", "n/a", "none"):
        return ()
    names: list[str] = []
    for item in _split(text):
        parts = re.split(r"\[([^\[\]]*)\]", item)
        choices = [_range(part) if i % 2 else [part] for i, part in enumerate(parts)]
        for words in product(*choices):
            names.append("".join(words))
            if len(names) >= MAX_NODES:
                return tuple(names)
    return tuple(name for name in names if name)


def _split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    return [item.strip() for item in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text) if item.strip()]


def _range(text: str) -> list[str]:
    names: list[str] = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", piece.strip(), re.ASCII)
        if match is None:
            names.append(piece.strip())
            continue
        first, last = int(match[1]), int(match[2])
        width = len(match[1])
        names += [f"{n:0{width}d}" for n in range(first, min(last, first + MAX_NODES) + 1)]
    return names
