"""What preflight's tests share: a rule's failing example and its cure, as overrides on a published row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from core_case import frozen

from nano_exp.dotted import set_dotted
from nano_exp.preflight import RULES, Finding
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View

NINE = ("model=nano_9b", "cluster=1n8g")
NINE_2 = ("model=nano_9b", "cluster=2n8g")
TWELVE = ("model=nano_12b", "cluster=1n8g")  # Megatron
TWELVE_2 = ("model=nano_12b", "cluster=2n8g")  # DTensor
THIRTY = ("model=nano_30b", "cluster=1n8g")  # DTensor, with experts
THIRTY_2 = ("model=nano_30b", "cluster=2n8g")  # Megatron, packed, all kinds of parallel
ROWS = (NINE, NINE_2, TWELVE, TWELVE_2, THIRTY, THIRTY_2)


@dataclass(frozen=True)
class Case:
    """A config that a rule refuses, and what cures it.

    Parameters
    ----------
    bad: overrides on `row`
    cure: overrides after those, with which the rule has nothing to say; each key stands in the finding's fix, unless
        `typed` is False
    version: another NeMo RL version's rules
    """

    rule: str
    row: tuple[str, ...]
    bad: tuple[str, ...]
    cure: tuple[str, ...]
    typed: bool = True
    version: str = "v0.7.0"
    severity: str = ""

    def __str__(self) -> str:
        return f"{self.rule} {' '.join(self.bad)}"[:90]


@cache
def base(row: tuple[str, ...]) -> dict[str, Any]:
    return frozen(Path("/launch"), *row).config


def config(row: tuple[str, ...], overrides: Sequence[str] = (), version: str = "v0.7.0") -> dict[str, Any]:
    """A published row's frozen config with keys set by themselves: nothing that is derived from them follows."""
    made = copy.deepcopy(base(row))
    made["nemo_rl"]["version"] = version
    for override in overrides:
        key, _, value = override.partition("=")
        if key.startswith("~"):
            delete(made, key[1:])
        else:
            set_dotted(made, key.lstrip("+"), yaml.safe_load(value))
    return made


def delete(made: dict[str, Any], key: str) -> None:
    *path, leaf = key.split(".")
    for part in path:
        made = made[part]
    del made[leaf]


def view(
    row: tuple[str, ...], overrides: Sequence[str] = (), version: str = "v0.7.0", facts: Facts | None = None
) -> View:
    return View(config(row, overrides, version), [*row, *overrides], facts or Facts(environ={}))


def said(
    rule: str, row: tuple[str, ...], overrides: Sequence[str] = (), version: str = "v0.7.0", facts: Facts | None = None
) -> list[Finding]:
    """What one rule says; nothing where it does not hold for the version."""
    seen = view(row, overrides, version, facts)
    return findings(seen, [RULES[rule]]) if RULES[rule].holds(seen.version) else []


def assert_case(case: Case, facts: Facts | None = None) -> None:
    """Refused with a message of three parts, silent when cured, and the cure is what the message says."""
    found = said(case.rule, case.row, case.bad, case.version, facts)
    assert found, "the rule has nothing to say"
    for finding in found:
        assert finding.rule == case.rule
        assert finding.severity == (case.severity or RULES[case.rule].severity)
        assert all((finding.found, finding.cause, finding.fix))
        for key, value in finding.keys:
            assert value, key
    if case.typed:
        for override in case.cure:
            key = override.partition("=")[0].lstrip("+")
            assert any(key in finding.fix for finding in found), f"{key} is in none of {[f.fix for f in found]}"
    assert said(case.rule, case.row, (*case.bad, *case.cure), case.version, facts) == []


def words(found: Sequence[Finding]) -> str:
    return "\n".join(f"{f.found} | {f.cause} | {f.fix}" for f in found)
