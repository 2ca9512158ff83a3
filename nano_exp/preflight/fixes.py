"""Fixes that are true when typed: each is composed and judged before it is shown.

A rule writes its fix for people, in a small grammar: alternatives stand between `, or ` and `; `, and what has to be
typed of one are its words of the form key=value (or ~key). An alternative without such words, a command of nano-exp, or
one with a place to fill in (`key=...`, `key=<a number>`, `key=N`), is left as it is. Of the others only those are shown
that make their own finding go away and bring no other error. Where none does, what mends the errors that they bring is
tried with them, and what mends the point's other errors.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nano_exp.compose import freeze, quick
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.overrides import Override
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.finding import Finding
from nano_exp.preflight.registry import RULES
from nano_exp.preflight.run import Group, Report, findings, rules_of
from nano_exp.preflight.view import View
from nano_exp.store.run_config import LAUNCHER_KEYS

if TYPE_CHECKING:  # Hydra is loaded where a point has no quick way
    from hydra.core.config_loader import ConfigLoader

    from nano_exp.preflight.trials import Trials

#: Configs that are judged for one report at most. What is not reached is told by its keys.
MOST_TRIALS = 150
#: How many errors' fixes are put together at most.
DEEPEST = 4

_VALUE = r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\{[^}]*\}|[^\s,;()'"\[{]*"""
_OVERRIDE = re.compile(rf"(?<![\w.<>-])(~[A-Za-z_][\w./]*|\+{{0,2}}[A-Za-z_][\w./@]*=(?:{_VALUE}))")
_TO_FILL_IN = re.compile(r"=(N$|/path|/where|.*\.\.\.|.*<|$)")
_ALTERNATIVES = re.compile(r", or |; | or (?=[+~]*[\w.]+=)")


@dataclass(frozen=True)
class Way:
    """One alternative of a fix.

    Parameters
    ----------
    overrides: what is typed for it; none where it is only words
    joint: what stands between it and the one before
    """

    text: str
    overrides: tuple[str, ...]
    joint: str = ", or "


def ways(fix: str) -> list[Way]:
    """The alternatives of a fix."""
    texts = _ALTERNATIVES.split(fix)
    joints = [", or ", *_ALTERNATIVES.findall(fix)]
    return [Way(text, _overrides(text), joint) for text, joint in zip(texts, joints, strict=True)]


def _joined(alternatives: Sequence[Way]) -> str:
    return "".join(f"{way.joint if number else ''}{way.text}" for number, way in enumerate(alternatives))


def _overrides(text: str) -> tuple[str, ...]:
    words = _OVERRIDE.findall(re.sub(r" \([^)]*\)|\bnano-exp .*", "", text))
    if any(_TO_FILL_IN.search(word) for word in words):
        return ()
    return tuple(" ".join(shlex.split(word)) for word in words)  # as the shell hands it on


def key_of(override: str) -> str:
    """The key of an override, however it is typed."""
    return Override.parse(override).name


def typed_with(overrides: Sequence[str], more: Sequence[str], instead: Iterable[str] = ()) -> list[str]:
    """What one types to have `more` too: it takes the place of what was typed of the same keys, and of `instead`."""
    replaced_keys = {key_of(word) for word in more} | set(instead)
    return [*(word for word in overrides if key_of(word) not in replaced_keys), *more]


Identity = tuple[str, tuple[str, ...] | str]


def identity(finding: Finding) -> Identity:
    """What makes two findings the same one with other values."""
    return finding.rule, tuple(key for key, _ in finding.keys) or finding.subject


def replaced(finding: Finding) -> frozenset[str]:
    """The keys that a finding's fix is typed instead of."""
    return frozenset(key for key, _ in finding.keys) if RULES[finding.rule].instead else frozenset()


@dataclass(frozen=True)
class Judged:
    """What preflight says of a point with a fix."""

    findings: tuple[Finding, ...]

    @cached_property
    def all(self) -> frozenset[Identity]:
        return frozenset(map(identity, self.findings))

    @cached_property
    def errors(self) -> frozenset[Identity]:
        """Errors of the config: what a machine lacks beside them is to be mended there."""
        return frozenset(map(identity, self.of_the_config))

    @cached_property
    def of_the_config(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error" and not RULES[f.rule].place)


class Bench:
    """One point, on which overrides are tried.

    Parameters
    ----------
    loader: opens Hydra's loader, for what has no quick way
    """

    def __init__(self, loader: Callable[[], ConfigLoader], frozen: Frozen, facts: Facts, folder: Path) -> None:
        self.loader, self.typed, self.facts, self.folder = loader, frozen.overrides, facts, folder
        self.trials = 0
        self._known: dict[tuple[tuple[str, ...], frozenset[str]], Judged | None] = {}

    @cached_property
    def _trials(self) -> Trials:
        from nano_exp.preflight.trials import Trials

        return Trials(self.loader(), self.typed, self.folder)

    def judge(self, more: tuple[str, ...] = (), instead: frozenset[str] = frozenset()) -> Judged | None:
        """What preflight says with these overrides typed too, and `instead` of some keys; None where they do not
        compose."""
        trial = (more, instead)
        if trial not in self._known:
            self.trials += 1
            try:
                self._known[trial] = self._judge(more, instead)
            except (UserError, ValueError, TypeError):
                self._known[trial] = None
        return self._known[trial]

    def _judge(self, more: tuple[str, ...], instead: frozenset[str]) -> Judged:
        words = typed_with(self.typed, more, instead)
        of_the_engine = not instead and all(self._plain(word) for word in more)
        if (point := quick.point(words)) is not None:
            frozen, parameters = freeze.freeze(point, self.folder), point.parameters
        else:
            frozen, parameters = self._trials.frozen(words, more if of_the_engine else None)
        facts = self.facts
        if not of_the_engine:
            facts = replace(facts, parameters={**facts.parameters, **parameters})
        view = View(frozen.config, frozen.overrides, facts)
        return Judged(tuple(findings(view, rules_of(view))))

    def _plain(self, word: str) -> bool:
        """Whether an override sets a value of NeMo RL's: then it can be set in what is composed already."""
        key = key_of(word)
        inside = key.split(".")[0] not in (*LAUNCHER_KEYS, "hydra") and "/" not in key and "." in key
        return inside and not any(Override.parse(one).deletes for one in (word, *self.typed))


def true_fixes(
    report: Report,
    points: Sequence[Frozen],
    facts: Facts,
    folder: Path,
    shown_short: frozenset[Finding] = frozenset(),
) -> Report:
    """The report with fixes that were tried: on the first and the last point that has the finding.

    Parameters
    ----------
    folder: the launch folder
    shown_short: findings that are shown without their fix
    """
    to_try = [group for group in report.groups if group.finding not in shown_short]
    if not any(way.overrides for group in to_try for way in ways(group.finding.fix)):
        return report
    with ExitStack() as stack:
        benches: dict[int, Bench] = {}

        @cache
        def loader() -> ConfigLoader:
            from nano_exp.compose import conf_tree

            return stack.enter_context(conf_tree.at_hand())

        def bench(index: int) -> Bench:
            return benches.setdefault(index, Bench(loader, points[index], facts, folder))

        groups = []
        for group in report.groups:
            if group.finding in shown_short:
                groups.append(group)
                continue
            on = [bench(index) for index in dict.fromkeys((group.points[0], group.points[-1]))]
            trials = sum(one.trials for one in benches.values())
            groups.append(_with_true_fix(group, on, MOST_TRIALS - trials))
    return replace(report, groups=tuple(groups))


def _with_true_fix(group: Group, on: Sequence[Bench], budget: int) -> Group:
    """A group with the alternatives of its fix that are true, or with others that are."""
    offered = ways(group.finding.fix)
    if RULES[group.finding.rule].of_slurm or not any(way.overrides for way in offered):
        return group
    case = _Case(group.finding, on, budget + sum(one.trials for one in on))
    if not case.stands:
        return group  # it does not come from what was typed alone: there is nothing to try it on
    outcomes = [(way, case.mended(way) if way.overrides else way) for way in offered]
    true = [mended for _, mended in outcomes if mended is not None]
    if true == offered:
        return group
    if not any(way.overrides for way in true):
        true = [*itertools.islice(case.search(offered), 1), *true]
    fix = _joined(true) or _other_values(group.finding)
    return replace(group, finding=replace(group.finding, fix=fix))


def _other_values(finding: Finding) -> str:
    keys = [key for key, _ in finding.keys]
    if not keys:
        return "another value of the keys above: none that was tried removes this error"
    return (
        f"other values of {' and '.join(keys)}: no single change that was tried removes this error without another one"
    )


@dataclass(frozen=True)
class _Case:
    """A finding, and the points that it is mended on."""

    finding: Finding
    on: Sequence[Bench]
    budget: int

    @cached_property
    def before(self) -> list[Judged | None]:
        return [one.judge() for one in self.on]

    @cached_property
    def instead(self) -> frozenset[str]:
        return replaced(self.finding)

    @property
    def stands(self) -> bool:
        """Whether the points have the finding as they are."""
        return all(judged is not None and identity(self.finding) in judged.all for judged in self.before)

    def mended(self, way: Way) -> Way | None:
        """The alternative if it is true, with ++ for keys that the recipe does not have; None if it is not."""
        if all(key_of(word) == "ignore" for word in way.overrides):
            return way  # its rule's own: what is ignored is no finding, whatever composes
        overrides = self.as_typed(way.overrides)
        if not self.passes(overrides):
            added = tuple(word if Override.parse(word).sign else f"++{word}" for word in overrides)
            composes = self._left and all(one.judge(overrides, self.instead) is not None for one in self.on)
            if composes or not self.passes(added):
                return None
            overrides = added
        text = way.text
        for old, new in zip(way.overrides, overrides, strict=True):
            text = text.replace(old, new) if old != new else text
        return Way(text, overrides, way.joint)

    def as_typed(self, overrides: tuple[str, ...]) -> tuple[str, ...]:
        """Overrides with ++ where their key was typed so: the recipe does not have it."""
        added = {key_of(word) for one in self.on for word in one.typed if Override.parse(word).adds}
        return tuple(
            f"++{word}" if not Override.parse(word).sign and key_of(word) in added else word for word in overrides
        )

    @property
    def _left(self) -> bool:
        return sum(one.trials for one in self.on) < self.budget

    def passes(self, overrides: tuple[str, ...]) -> bool:
        """Whether with these overrides the finding is gone and no error is there that was not before."""
        return self._left and all(
            (after := one.judge(overrides, self.instead)) is not None
            and identity(self.finding) not in after.all
            and not after.errors - (before.errors if before else frozenset())
            for one, before in zip(self.on, self.before, strict=True)
        )

    def search(self, offered: Sequence[Way]) -> Iterator[Way]:
        """Other changes that mend it: what was offered, together with what mends the errors that it brings; then those
        of the point's other errors."""
        first, before = self.on[0], self.before[0]
        others = before.of_the_config if before is not None else ()
        known = frozenset(map(identity, others))
        candidates = [self.as_typed(way.overrides) for way in offered if way.overrides]
        for _ in range(DEEPEST - 1):
            longer = []
            for overrides in candidates:
                after = first.judge(overrides, self.instead) if self._left else None
                new_findings = [f for f in (after.of_the_config if after else ()) if identity(f) not in known]
                keys = set(map(key_of, overrides))
                for more in self._typed_of(new_findings):
                    if not keys & set(map(key_of, more)):
                        longer.append((*overrides, *more))
                        if self.passes(longer[-1]):
                            yield _as_way(longer[-1])
            candidates = longer
        for more in self._typed_of(finding for finding in others if finding != self.finding):
            if self.passes(more):
                yield _as_way(more)

    def _typed_of(self, findings: Iterable[Finding]) -> Iterator[tuple[str, ...]]:
        for finding in findings:
            yield from (self.as_typed(way.overrides) for way in ways(finding.fix) if way.overrides)


def _as_way(overrides: tuple[str, ...]) -> Way:
    return Way(" ".join(map(shlex.quote, overrides)), overrides)
