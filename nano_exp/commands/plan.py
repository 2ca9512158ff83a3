"""plan: which layouts fit, with their memory, and what to type for them."""

from __future__ import annotations

import argparse
from pathlib import Path

from nano_exp.commands import Commands

#: Layouts that the table shows by itself.
SHOWN = 6


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    plan = commands.add_parser(
        "plan",
        epilog="nano-exp plan model=nano_12b cluster=2n8g",
        help="layouts that fit the GPUs, their memory by phase, and what to type",
    )
    plan.add_argument("overrides", nargs="*", help="as for launch.py: model=nano_12b cluster=2n8g ...")
    plan.add_argument(
        "--gpu", metavar="NAME", help="kind of GPU: h100-80, h200-141, a100-80, b200-192, ... (default: site.gpu)"
    )
    plan.add_argument("--max-length", type=int, metavar="N", help="longest sequence, tokens")
    plan.add_argument("--mean-length", type=int, metavar="N", help="mean length, tokens (default: half of the longest)")
    plan.add_argument("--config", type=Path, metavar="PATH", help="plan for the model of this Hugging Face config.json")
    plan.add_argument("--top", type=int, default=SHOWN, metavar="N", help=f"layouts to show (default: {SHOWN})")
    plan.add_argument("--json", action="store_true", help="every layout, for scripts")
    plan.add_argument("--plot", type=Path, metavar="FILE", help="draw the memory of the leading layouts (.png, .svg)")
    plan.add_argument(
        "--calibrate", type=Path, metavar="RESULTS", help="fit the planner's constants to peaks that runs recorded"
    )
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    from nano_exp.advice import mistakes
    from nano_exp.compose import conf_tree
    from nano_exp.errors import UserError
    from nano_exp.planner import describe, proposal

    if arguments.calibrate is not None:
        from nano_exp.planner import calibrate

        print(calibrate.run(arguments.calibrate.expanduser(), arguments.gpu))
        return 0
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top}", "at least one layout is shown", f"--top {SHOWN}")
    with conf_tree.loader() as config_loader, mistakes.explained(config_loader):
        layouts = proposal.propose(
            config_loader,
            arguments.overrides,
            gpu=arguments.gpu,
            mean_length=arguments.mean_length,
            max_length=arguments.max_length,
            model=arguments.config.expanduser() if arguments.config else None,
        )
    if arguments.plot is not None:
        from nano_exp.planner import plot

        plot.draw(layouts, describe.chosen(layouts, arguments.top), arguments.plot.expanduser())
    print(describe.as_json(layouts) if arguments.json else describe.as_text(layouts, arguments.top))
    return 0
