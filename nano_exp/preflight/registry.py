"""The rules by name. A rule is a function that yields each `Mistake`; its name is the function's, its summary the
docstring's first line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nano_exp.nemo_rl.versions import holds
from nano_exp.preflight.finding import Finding, Severity
from nano_exp.text import as_typed

if TYPE_CHECKING:
    from nano_exp.preflight.view import View


@dataclass(frozen=True)
class Mistake:
    """What a rule yields: `Finding` without what the rule itself knows.

    Parameters
    ----------
    keys: the dotted keys involved, whose values are shown; for a rule that concerns none, `subject` says what was found
    severity: other than the rule's own, where that depends on the values
    """

    keys: tuple[str, ...]
    cause: str
    fix: str
    subject: str = ""
    severity: Severity | None = None


Check = Callable[["View"], Iterable[Mistake]]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Parameters
    ----------
    number: of the catalogue of what NeMo RL refuses; None for the project's own
    versions: the NeMo RL versions where it holds, as ">=v0.6.0", "<v0.6.0" or both with a comma; "" for all
    place: whether it is about the machine and not about the config (`ignore=[place]` skips all of those)
    engine: the engine whose configs it judges
    of_slurm: whether its verdict is Slurm's on this very launch, so that another config cannot be judged without asking
    instead: whether its fix is typed instead of the key that was found, and not beside it
    """

    name: str
    summary: str
    severity: Severity
    number: int | None
    versions: str
    topic: str
    check: Check
    place: bool = False
    engine: str = "nemo_rl"
    of_slurm: bool = False
    instead: bool = False

    def holds(self, version: tuple[int, ...]) -> bool:
        """Whether the rule is one of this NeMo RL version."""
        return holds(self.versions, version)

    def findings(self, view: View) -> Iterator[Finding]:
        """What the rule says of a config."""
        for mistake in self.check(view):
            keys = tuple((key, as_typed(view.value(key))) for key in mistake.keys)
            severity = mistake.severity or self.severity
            yield Finding(self.name, severity, keys, mistake.cause, mistake.fix, mistake.subject)


RULES: dict[str, Rule] = {}

#: Names that rules had before, for the `ignore=` of those who know them.
RENAMED = {"heads_on_dtensor_v1": "heads_on_dtensor"}

#: Not a rule's name: all rules about the machine.
PLACE = "place"

#: In the place of an engine: a rule about every one.
ANY_ENGINE = "any engine"


def rule(
    number: int | None = None,
    *,
    severity: Severity = "error",
    versions: str = "",
    place: bool = False,
    engine: str = "nemo_rl",
    of_slurm: bool = False,
    instead: bool = False,
) -> Callable[[Check], Check]:
    """Register a rule under its function's name."""

    def register(check: Check) -> Check:
        summary = (check.__doc__ or "").strip().splitlines()[0]
        topic = check.__module__.rpartition(".")[2]
        name = check.__name__
        add(Rule(name, summary, severity, number, versions, topic, check, place, engine, of_slurm, instead))
        return check

    return register


def add(one: Rule) -> None:
    """Register a rule.

    Raises
    ------
    ValueError: another one has its name
    """
    if one.name in RULES or one.name == PLACE:
        raise ValueError(f"two rules are called {one.name}")
    RULES[one.name] = one
