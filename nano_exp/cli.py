"""`nano-exp`: everything about runs that is not launching them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nano_exp.errors import UserError

RESULTS_ENV = "NANO_EXP_RESULTS"


def default_results() -> Path:
    """Where runs are looked for: NANO_EXP_RESULTS, or ./results as a launch from here would write."""
    return Path(os.environ.get(RESULTS_ENV, "results")).expanduser().resolve()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="nano-exp", description="Look after runs that launch.py made.")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--results",
        type=Path,
        default=default_results(),
        help=f"folder of the runs (default: ${RESULTS_ENV} or ./results)",
    )

    status = commands.add_parser(
        "status", parents=[where], help="a table of runs: state, step, reward, validation, age"
    )
    status.add_argument("what", nargs="*", help="names or run ids; default: all")
    status.add_argument("--json", action="store_true", help="the same for scripts")
    status.set_defaults(run=_status)

    logs = commands.add_parser("logs", parents=[where], help="what a run's engine printed")
    logs.add_argument("what", metavar="RUN", help="a run's id (its first letters do), or a name with one run")
    logs.add_argument("-f", "--follow", action="store_true", help="go on while it grows, into the next attempt too")
    logs.add_argument("--attempt", type=int, help="which attempt (default: the newest)")
    logs.add_argument(
        "--stream", choices=("out", "err", "attempt"), default="out", help="stdout, stderr or the attempt's own log"
    )
    logs.set_defaults(run=_logs)

    cancel = commands.add_parser("cancel", parents=[where], help="end active runs; asks first for more than one")
    cancel.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, or names: all active runs of it")
    cancel.add_argument("-y", "--yes", action="store_true", help="do not ask")
    cancel.set_defaults(run=_cancel)

    retry = commands.add_parser("retry", parents=[where], help="submit again what is neither done nor active")
    retry.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, names, and hydra.launcher.KEY=VALUE")
    retry.set_defaults(run=_retry)

    render = commands.add_parser("render", help="the YAML that NeMo RL would get, on stdout and nothing else")
    render.add_argument("overrides", nargs="*", help="as for launch.py: model=nano_9b cluster=1n8g ...")
    render.set_defaults(run=_render)
    return main_parser


def _status(given: argparse.Namespace) -> int:
    from nano_exp import plan
    from nano_exp.report import status

    asked = plan.Asked()
    found = status.lines(given.results.expanduser().resolve(), given.what, asked)
    print(status.as_json(found, asked) if given.json else status.as_table(found, asked))
    return 0


def _logs(given: argparse.Namespace) -> int:
    from nano_exp import plan, runs, state
    from nano_exp.report import logs, status

    run = status.one(given.results.expanduser().resolve(), given.what)
    if not given.follow:
        return logs.show_log(run, given.attempt, given.stream, sys.stdout)
    if given.attempt is not None:
        raise UserError("-f with --attempt", "only the newest attempt grows", "leave one of the two out")

    def ended() -> bool:
        now = plan.Asked().state(runs.load(run.dir))
        return now.kind not in (*state.ACTIVE, "unknown")

    return logs.follow(run, given.stream, sys.stdout, ended)


def _cancel(given: argparse.Namespace) -> int:
    from nano_exp import control
    from nano_exp.report import status

    def confirm(question: str) -> bool:
        return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    results = given.results.expanduser().resolve()
    return control.cancel(status.select(results, given.what), given.yes, confirm)


def _retry(given: argparse.Namespace) -> int:
    from nano_exp import control
    from nano_exp.report import status

    results = given.results.expanduser().resolve()
    overrides = [word for word in given.what if "=" in word]
    words = [word for word in given.what if "=" not in word]
    if not words:
        raise UserError(
            "no run named", "retry submits what you name", "nano-exp retry RUN|NAME [hydra.launcher.KEY=VALUE]"
        )
    return control.retry(results, status.select(results, words), overrides)


def _render(given: argparse.Namespace) -> int:
    from nano_exp import compose, files, freeze, identity

    with compose.loader() as config_loader:
        point = compose.compose_points(config_loader, [given.overrides])[0]
    frozen = freeze.freeze(point, Path.cwd())
    config = freeze.place(frozen, identity.run_id(frozen.digest))
    sys.stdout.write(files.dump_yaml(freeze.engine_config(config)))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes a list of names on one side of an option only; here they may stand on both."""
    main_parser = parser()
    given, rest = main_parser.parse_known_args(argv)
    for name in ("what", "overrides"):
        if isinstance(getattr(given, name, None), list):
            getattr(given, name).extend(word for word in rest if not word.startswith("-"))
            rest = [word for word in rest if word.startswith("-")]
    if rest:
        main_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `nano-exp` command. Returns the exit code."""
    try:
        given = _parse(argv)
        code = int(given.run(given))
        sys.stdout.flush()  # here, where a reader that went away (`nano-exp status | head`) is no fault
        return code
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
