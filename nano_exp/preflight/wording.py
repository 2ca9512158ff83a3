"""A report for people and for scripts, and the table of rules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from nano_exp.errors import UserError
from nano_exp.preflight.finding import Finding
from nano_exp.preflight.registry import RULES, Rule
from nano_exp.preflight.run import Group, Report
from nano_exp.store import axes

#: How many forms of one rule's finding on the same keys are shown before it says how many more there are.
MAX_FORMS = 3


class Refusal(UserError):
    """A launch that preflight stops: all errors of all its points."""

    def __init__(self, report: Report) -> None:
        first = report.errors[0].finding
        super().__init__(first.found, first.cause, first.fix)
        self.report = report

    def __str__(self) -> str:
        errors = groups(self.report, self.report.errors)
        names = ",".join(dict.fromkeys(group.finding.rule for group in self.report.errors))
        return f"{errors}\nnothing was submitted. To launch all the same, at your own risk: 'ignore=[{names}]'"


def groups(report: Report, shown_groups: list[Group]) -> str:
    """Findings one below the other, those of one rule together."""
    by_rule: dict[str, list[Group]] = {}
    for group in shown_groups:
        by_rule.setdefault(group.finding.rule, []).append(group)
    return "\n".join(_rule(report, name, found) for name, found in by_rule.items())


def _rule(report: Report, name: str, of_rule: list[Group]) -> str:
    points = {index for group in of_rule for index in group.points}
    lines, forms = [], Counter[tuple[str, ...]]()
    for group in of_rule:
        about = tuple(key for key, _ in group.finding.keys)
        forms[about] += 1
        if forms[about] > MAX_FORMS:
            continue
        finding = group.finding
        lines += [f"{finding.severity}: {finding.found}", f"  why: {finding.cause}", f"  fix: {finding.fix}"]
        if len(of_rule) > 1 and len(report.points) > 1:
            lines.append(f"  in: {_points(report, group.points)}")
    more = sum(max(count - MAX_FORMS, 0) for count in forms.values())
    if more:
        lines.append(f"  ... and {more} more like {'it' if len(forms) == 1 else 'these'}, with other values")
    where = f"; {len(points)} of {len(report.points)} points" if len(report.points) > 1 else ""
    if where and len(of_rule) == 1:
        where += f": {_points(report, of_rule[0].points)}"
    return "\n".join([*lines, f"  rule: {name}{where}"])


def _points(report: Report, indices: tuple[int, ...]) -> str:
    """Which points, by what sets the first of them apart."""
    if len(indices) == len(report.points):
        return "all"
    shared = axes.shared(report.points)
    distinct = [" ".join(o for o in report.points[index] if o not in shared) or "the defaults" for index in indices[:2]]
    rest = len(indices) - len(distinct)
    return " | ".join(distinct) + (f" | and {rest} more" if rest else "")


def warnings(report: Report, published: Collection[Finding] = ()) -> str:
    """What does not stop a launch: warnings, what was ignored, what could not be looked at; empty when nothing.

    Parameters
    ----------
    published: those that are told in a line: the recipe has them as it is published
    """
    unpublished = [group for group in report.warnings if group.finding not in published]
    parts = [groups(report, unpublished)] if unpublished else []
    parts += [
        f"as published: {group.finding.found} ({group.finding.rule}; nano-exp check says why)"
        for group in report.warnings
        if group.finding in published
    ]
    errors = dict.fromkeys(g.finding.rule for g in report.ignored if g.finding.severity == "error")
    if errors:
        parts.append(f"ignored, as told: errors of {', '.join(errors)}")
    parts += [f"not checked: {line}" for line in report.skipped]
    return "\n".join(parts)


def warning_records(report: Report) -> list[dict[str, Any]]:
    """What a launch keeps of its warnings: rule, text and of how many points, one a finding."""
    return [
        {
            "rule": group.finding.rule,
            "text": f"{group.finding.found}: {group.finding.cause}",
            "points": len(group.points),
        }
        for group in report.warnings
    ]


def summary(report: Report) -> str:
    """One line: how many of what."""
    count = len(report.points)
    points = f"{count} point" + ("s" if count != 1 else "")
    return f"preflight: {points}, {_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}"


def _count(counted: list[Group], word: str) -> str:
    rules = len({group.finding.rule for group in counted})
    return f"{rules or 'no'} {word}{'s' if rules != 1 else ''}"


def as_text(report: Report) -> str:
    """The whole report."""
    errors = groups(report, report.errors) if report.errors else ""
    lines = [errors, warnings(report), *report.cost.lines(), report.start]
    lines += [*report.tokens, *report.caches, summary(report)]
    return "\n".join(line for line in lines if line)


def as_json(report: Report) -> str:
    """The whole report for scripts; GPU-hours are those of one allocation a run, or of the `packed`
    allocations that they share; sizes are in bytes."""

    def as_row(group: Group, ignored: bool) -> dict[str, Any]:
        finding = group.finding
        rule = RULES[finding.rule]
        return {
            "rule": finding.rule,
            "number": rule.number,
            "severity": finding.severity,
            "place": rule.place,
            "ignored": ignored,
            "keys": dict(finding.keys),
            "found": finding.found,
            "cause": finding.cause,
            "fix": finding.fix,
            "points": list(group.points),
        }

    cost = report.cost
    return json.dumps(
        {
            "points": [list(overrides) for overrides in report.points],
            "findings": [
                *(as_row(group, False) for group in report.groups),
                *(as_row(group, True) for group in report.ignored),
            ],
            "errors": len(report.errors),
            "warnings": len(report.warnings),
            "not_checked": list(report.skipped),
            "start": report.start or None,
            "tokens": list(report.tokens),
            "caches": list(report.caches),
            "cost": {
                "gpu_hours": cost.gpu_hours,
                "largest_gpu_hours": cost.largest_gpu_hours,
                "checkpoint_bytes": cost.checkpoint_bytes,
                "largest_checkpoint_bytes": cost.largest_checkpoint_bytes,
                "rollout_bytes": cost.rollout_bytes,
                "largest_rollout_bytes": cost.largest_rollout_bytes,
                "rollout_bytes_a_step": cost.rollout_bytes_a_step,
                "attempts": cost.attempts,
                "packed": cost.packed or None,
            },
        },
        indent=1,
    )


def rules_table() -> str:
    """Every rule as a row of a Markdown table, as docs/preflight.md has it."""
    rows = ["| rule | | NeMo RL | what has to hold |", "|---|---|---|---|"]
    rows += [f"| `{r.name}` | {_kind(r)} | {r.versions or _engine(r)} | {r.summary} |" for r in RULES.values()]
    return "\n".join(rows)


def rules_json() -> str:
    """The same for scripts; `versions` and `number` may be null."""
    rows = [
        {
            "name": r.name,
            "severity": r.severity,
            "place": r.place,
            "engine": r.engine,
            "versions": r.versions or None,
            "number": r.number,
            "summary": r.summary,
        }
        for r in RULES.values()
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _kind(rule: Rule) -> str:
    number = f" {rule.number}" if rule.number is not None else ""
    return f"{rule.severity}{number}{', place' if rule.place else ''}"


def _engine(rule: Rule) -> str:
    return {"nemo_rl": "all", "embedded": "-"}.get(rule.engine, rule.engine)
