"""All rules over all points of a launch, and what they found, grouped."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from nano_exp.alike import Alike
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError, nearest
from nano_exp.preflight import ahead, shared_caches, tokens
from nano_exp.preflight import cost as costs
from nano_exp.preflight.accounts import start_line
from nano_exp.preflight.cost import Cost
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.finding import Finding
from nano_exp.preflight.memory import not_checked
from nano_exp.preflight.registry import ANY_ENGINE, PLACE, RENAMED, RULES, Rule
from nano_exp.preflight.view import View, signs
from nano_exp.terminal.progress_line import counting


@dataclass(frozen=True)
class Group:
    """One finding and the points (by index) that have it, in this very form."""

    finding: Finding
    points: tuple[int, ...]


NO_COST = Cost()


@dataclass(frozen=True)
class Report:
    """What preflight found.

    Parameters
    ----------
    points: the overrides of each point, as typed
    groups: findings, errors first, in the order of the rules
    ignored: the same for the rules that were told to be ignored
    skipped: what could not be looked at, one line each
    start: when Slurm would start the largest run, in words; empty where it does not say
    cost: what the points cost at most
    tokens: which are there, and what that means, one line each
    caches: what NeMo RL makes once and runs share, where it is not made yet, one line each
    """

    points: tuple[tuple[str, ...], ...]
    groups: tuple[Group, ...] = ()
    ignored: tuple[Group, ...] = ()
    skipped: tuple[str, ...] = ()
    start: str = ""
    cost: Cost = NO_COST
    tokens: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()

    @property
    def errors(self) -> list[Group]:
        return [group for group in self.groups if group.finding.severity == "error"]

    @property
    def warnings(self) -> list[Group]:
        return [group for group in self.groups if group.finding.severity == "warning"]


def ignored(points: Sequence[Frozen]) -> tuple[str, ...]:
    """The rules that `ignore=` names, for the whole launch.

    Raises
    ------
    UserError: no list of names, a name that no rule has, or points that do not agree
    """
    values = [frozen.config.get("ignore") or [] for frozen in points]
    value = [values[0]] if values and isinstance(values[0], str) else values[0] if values else []
    if any(other != values[0] for other in values):
        raise UserError("ignore differs between points", "it applies to the whole launch", "'ignore=[one,another]'")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"ignore={value!r}", "it is a list of rules by name", "'ignore=[whole_micro_batches,place]'")
    value = [RENAMED.get(name, name) for name in value]
    for name in value:
        if name not in RULES and name != PLACE:
            near = nearest(name, [*RULES, PLACE])
            raise UserError(
                f"ignore names {name}",
                "no rule is called that",
                (f"ignore=[{near[0]}]" + (f" (or: {', '.join(near[1:])})" if near[1:] else "") + "; " if near else "")
                + "nano-exp check --rules lists them",
            )
    return tuple(dict.fromkeys(value))


def applies(rule: Rule, view: View) -> bool:
    """Whether a rule is about the engine and the NeMo RL version of a config."""
    return rule.engine in (view.engine, ANY_ENGINE) and rule.holds(view.version)


def rules_of(view: View) -> list[Rule]:
    """The rules about a config's engine and version."""
    return [rule for rule in RULES.values() if applies(rule, view)]


def findings(view: View, rules: Iterable[Rule]) -> list[Finding]:
    """What these rules say of one config."""
    return [finding for rule in rules for finding in _findings(view, rule)]


def _findings(view: View, rule: Rule) -> Iterator[Finding]:
    as_warning = rule.place and view.facts.elsewhere
    return (replace(finding, severity="warning") if as_warning else finding for finding in rule.findings(view))


def _word(rule: Rule, view: View) -> tuple[Finding, ...]:
    return tuple(_findings(view, rule)) if applies(rule, view) else ()


class Verdicts:
    """What is asked of every point, once for all points that are alike in what the answer is made of.

    Parameters
    ----------
    facts: the same for all of them
    """

    def __init__(self, points: Sequence[Frozen], facts: Facts) -> None:
        self._facts = facts
        documents = [{"config": p.config, "overrides": tuple(p.overrides), "typed": signs(p.overrides)} for p in points]
        self._points = Alike(documents, lambda document: View.of(document, facts), copy.copy)
        #: Kind of points -> what is said of all of them, and the rules whose word hangs on what they differ in.
        self._of_kind: dict[Hashable, tuple[list[Finding], list[Rule]]] = {}

    def findings(self, index: int) -> list[Finding]:
        """What the rules about a point's engine and version say of it."""
        same, left = self._of_kind.setdefault(self._points.kind(index), ([], list(RULES.values())))
        found = list(same)
        for rule in list(left):
            said = self._points.ask(index, rule.name, partial(_word, rule))
            found += said
            if self._points.same(index, rule.name):
                same += said
                left.remove(rule)
        return found

    def cost(self, index: int) -> Cost:
        return self._points.ask(index, "cost", lambda view: costs.of_one(view, self._facts.parameters))

    def needs(self, index: int) -> shared_caches.Needs:
        return self._points.ask(index, "needs", lambda view: shared_caches.needs(view.config, self._facts.environ))

    def not_judged(self, index: int) -> tuple[str, ...]:
        """Why memory and disk are not judged, a line each."""
        return self._points.ask(index, "not judged", lambda view: not_checked([view]))


def examine(points: Sequence[Frozen], facts: Facts, ignore: Sequence[str] = ()) -> Report:
    """Every rule that holds for a point's engine and version, over every point.

    Parameters
    ----------
    ignore: rules, or `place`, whose findings do not count
    """
    verdicts = Verdicts(points, facts)
    points_of: dict[Finding, list[int]] = {}
    each: list[costs.Cost] = []
    not_judged: dict[str, None] = {}
    with counting("checking", len(points)) as one_more:
        for index in range(len(points)):
            for finding in verdicts.findings(index):
                where = points_of.setdefault(finding, [])
                if not where or where[-1] != index:
                    where.append(index)
            each.append(verdicts.cost(index))
            not_judged |= dict.fromkeys(verdicts.not_judged(index))
            one_more()
    order = {name: number for number, name in enumerate(RULES)}
    groups = sorted(
        (Group(finding, tuple(where)) for finding, where in points_of.items()),
        key=lambda g: (g.finding.severity, order[g.finding.rule], g.points),
    )
    silent = facts.answers.silent if facts.answers is not None else ()
    return Report(
        tuple(frozen.overrides for frozen in points),
        tuple(g for g in groups if not _ignored(g, ignore)),
        tuple(g for g in groups if _ignored(g, ignore)),
        (*silent, *not_judged),
        start_line(facts.answers.test) if facts.answers is not None else "",
        costs.of_all(each),
        tuple(tokens.lines([frozen.config for frozen in points], facts.environ, facts.env_names)),
        tuple(_cold(points, verdicts)),
    )


def _cold(points: Sequence[Frozen], verdicts: Verdicts) -> list[str]:
    needs = [verdicts.needs(index) for index in range(len(points))]
    configs = [frozen.config for frozen in points]
    return shared_caches.lines(needs, configs, lambda: ahead.shared([frozen.overrides for frozen in points]))


def _ignored(group: Group, ignore: Sequence[str]) -> bool:
    return group.finding.rule in ignore or (PLACE in ignore and RULES[group.finding.rule].place)
