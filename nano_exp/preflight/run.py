"""All rules over all points of a launch, and what they found, grouped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
from nano_exp.preflight.view import View
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
    of_config = [finding for rule in rules for finding in rule.findings(view)]
    if view.facts.elsewhere:
        of_config = [replace(f, severity="warning") if RULES[f.rule].place else f for f in of_config]
    return of_config


def examine(points: Sequence[Frozen], facts: Facts, ignore: Sequence[str] = ()) -> Report:
    """Every rule that holds for a point's engine and version, over every point.

    Parameters
    ----------
    ignore: rules, or `place`, whose findings do not count
    """
    rules_by_kind: dict[tuple[str, tuple[int, ...]], list[Rule]] = {}
    points_of: dict[Finding, list[int]] = {}
    each: list[costs.Cost] = []
    not_judged: dict[str, None] = {}
    with counting("checking", len(points)) as one_more:
        for index, frozen in enumerate(points):
            view = View(frozen.config, frozen.overrides, facts)  # none of them stays: each is larger than its config
            kind = (view.engine, view.version)
            if kind not in rules_by_kind:
                rules_by_kind[kind] = rules_of(view)
            for finding in findings(view, rules_by_kind[kind]):
                where = points_of.setdefault(finding, [])
                if not where or where[-1] != index:
                    where.append(index)
            each.append(costs.of_one(view, facts.parameters))
            not_judged |= dict.fromkeys(not_checked([view]))
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
        tuple(_cold(points, facts)),
    )


def _cold(points: Sequence[Frozen], facts: Facts) -> list[str]:
    prepare = ahead.shared([frozen.overrides for frozen in points])
    return shared_caches.lines([frozen.config for frozen in points], facts.environ, prepare)


def _ignored(group: Group, ignore: Sequence[str]) -> bool:
    return group.finding.rule in ignore or (PLACE in ignore and RULES[group.finding.rule].place)
