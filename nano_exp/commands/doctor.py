"""doctor: is this place fit to launch from."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    doctor = commands.add_parser(
        "doctor",
        epilog="nano-exp doctor model=nano_9b cluster=1n8g site=NAME",
        help="is this place fit to launch from: Slurm, folders, checkout, model, limits; what to type where it is not",
        description="Looks at the place, side by side, and changes nothing. "
        "Exit code: 0 all is well, 1 warnings, 2 errors.",
    )
    doctor.add_argument("overrides", nargs="*", help="as for launch.py: model=nano_9b cluster=1n8g site=NAME ...")
    doctor.add_argument("--json", action="store_true", help="the same for scripts")
    doctor.add_argument("--network", action="store_true", help="ask the hub and W&B too")
    doctor.add_argument("--on-node", action="store_true", help="look from a node too: a Slurm job of one GPU, seconds")
    doctor.add_argument(
        "--wait", type=int, default=120, metavar="S", help="how long --on-node waits for a node, seconds (120)"
    )
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    import sys

    from nano_exp.errors import UserError

    try:
        from nano_exp import doctor
        from nano_exp.doctor import on_node, told
    except ImportError as missing:
        raise UserError(
            f"Python {sys.executable}: {missing}",
            "the packages of the launch are not all there, so that nothing else can be looked at",
            "pip install -e . in the project's folder",
        ) from missing

    place = doctor.Place.of(arguments.overrides, arguments.network)
    checked = doctor.run(place)
    if arguments.on_node:
        checked.append(on_node.checked(place, arguments.wait))
    print(told.as_json(checked) if arguments.json else told.as_text(checked))
    return told.exit_code(checked)
