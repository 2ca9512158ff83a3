"""check: preflight alone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    check = commands.add_parser(
        "check",
        epilog="nano-exp check model=nano_9b cluster=1n8g optimizer.lr=1e-6,5e-6",
        help="what is wrong with a launch, without launching; commas make a sweep",
    )
    check.add_argument("overrides", nargs="*", help="as for launch.py: model=nano_9b cluster=1n8g ...")
    check.add_argument("--json", action="store_true", help="the same for scripts")
    check.add_argument("-m", "--multirun", action="store_true", help="as for launch.py; commas do without it")
    check.add_argument("--rules", action="store_true", help="the table of all rules, and nothing else")
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from nano_exp import preflight
    from nano_exp.launch import gather, points, shared_cost, terms
    from nano_exp.launch import show as launched
    from nano_exp.preflight import fixes, wording

    if arguments.rules:
        print(wording.rules_json() if arguments.json else wording.rules_table())
        return 0
    expanded = points.expanded(arguments.overrides)
    ignore = preflight.ignored(expanded.frozen)
    facts = gather.facts(expanded.frozen, expanded.parameters, submitting=False)
    report = fixes.true_fixes(preflight.examine(expanded.frozen, facts, ignore), expanded.frozen, facts, Path.cwd())
    configs = [frozen.config for frozen in expanded.frozen]
    if any(config.get("pack") for config in configs):
        shared = shared_cost.shared(report.cost, configs, expanded.parameters, terms.read(expanded.frozen))
        report = replace(report, cost=shared)
    if not arguments.json:
        launched.skipped(expanded.skipped, expanded.frozen)
        launched.notes(expanded.notes)
    print(wording.as_json(report) if arguments.json else wording.as_text(report))
    return 2 if report.errors else 0
