"""Warnings that the unchanged published recipe has too: nothing that a user did, so a line each is enough."""

from __future__ import annotations

from collections.abc import Sequence

from nano_exp.compose import quick
from nano_exp.compose.freeze import Frozen
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.finding import Finding
from nano_exp.preflight.registry import RULES
from nano_exp.preflight.run import Report, applies, findings
from nano_exp.preflight.view import View
from nano_exp.store import axes

#: The groups that choose a published recipe.
_CHOOSE = ("model", "cluster", "nemo_rl")


def of(points: Sequence[Frozen], report: Report, facts: Facts) -> frozenset[Finding]:
    """The warnings of a report that the recipes of its points have as they are published, in this very form."""
    warnings = [group for group in report.warnings if not RULES[group.finding.rule].place]
    first: dict[tuple[str, ...], Frozen] = {}
    for frozen in (points[index] for group in warnings for index in group.points):
        if not frozen.choices.get("recipe"):  # a recipe file is the user's own
            first.setdefault(tuple(str(frozen.choices.get(group)) for group in _CHOOSE), frozen)
    names = {group.finding.rule for group in warnings}
    published: set[Finding] = set()
    for choices, frozen in first.items():
        view = View(_published(choices, frozen), (), facts)
        published |= set(findings(view, [RULES[name] for name in names if applies(RULES[name], view)]))
    return frozenset(published)


def _published(choices: tuple[str, ...], frozen: Frozen) -> dict[str, object]:
    """The resolved config of a published recipe; a point that changes nothing is that."""
    if not any(axes.of_the_run(key) and key not in _CHOOSE for key in axes.typed(frozen.overrides)):
        return frozen.config
    words = [f"{group}={option}" for group, option in zip(_CHOOSE, choices, strict=True)]
    if (point := quick.point(words)) is not None:
        return point.config
    from nano_exp.compose import compose, conf_tree, resolving

    with conf_tree.at_hand() as config_loader:
        quick.keep(config_loader, words)
        return resolving.resolve(compose.compose(config_loader, words))
