"""`python launch.py`: Hydra's main around our launcher, with every mistake answered in three parts."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_exp.compose import BASE
from nano_exp.errors import UserError
from nano_exp.overrides import Override

if TYPE_CHECKING:  # a mistyped command, --help and Tab do without what a launch loads
    from nano_exp.launch.flow import Launched


def by_hydra() -> None:
    """What a checkout's launch.py calls, with the package's conf/."""
    import hydra
    from omegaconf import DictConfig

    @hydra.main(version_base="1.3", config_path=str(BASE), config_name="config")
    def composed(cfg: DictConfig) -> None:
        raise not_our_path()

    composed()


def launch() -> int:
    """What a checkout's `python launch.py` does, without one: for a project's own launch.py, and `nano-exp launch`."""
    return run(by_hydra)


def run(main: Callable[[], Any], take: Callable[..., Launched] | None = None) -> int:
    """Launch what is typed: the quick way where there is one, else by a `hydra.main` function.

    Parameters
    ----------
    main: has our launcher as its default
    take: what is done with the composed points; `flow.launch` where nothing else is named

    Returns
    -------
    the process's exit code: 0; 1 a waited-for run failed; 2 refused before anything was done; 3 not or not all
    submitted; 4 Slurm does not answer; 130 Ctrl-C
    """
    gc.set_threshold(100_000, 20, 20)  # a launch makes few cycles: looking for them is a tenth of its time
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of being printed and exited on
    # Hydra's parser takes overrides on one side of an option only; -m may stand anywhere.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    from nano_exp import credentials
    from nano_exp.compose import kept, quick

    words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
    if any(word.startswith("-") for word in words):
        kept.turn_off()
    elif not {"hydra", "omegaconf"} & set(sys.modules):  # else somebody may have told them more than conf/ says
        quick.allow()
    codes: list[int] = []  # of each launch: a search makes several

    def taken(*launch: Any) -> Launched:
        from nano_exp.launch import flow

        launched = (take or flow.launch)(*launch)
        codes.append(launched.code)
        return launched

    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as launch.py left it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _refuse_bytes(sys.argv[1:])
        credentials.refuse_overrides(sys.argv[1:])  # first: what follows may show them
        _refuse_other_mode(sys.argv[1:])
        _refuse_chain(sys.argv[1:])
        _require_optuna(sys.argv[1:])
        if not _quickly(words, taken, several=len(words) < len(sys.argv[1:])):
            _prepare_hydra(taken, codes.append if take is None else None)
            main()
        sys.stdout.flush()  # here, where a reader that went away is no fault
        return next((code for code in reversed(codes) if code), 0)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("\nCtrl-C: nothing more was done", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return report(error)


def _quickly(words: Sequence[str], take: Callable[..., object], several: bool) -> bool:
    """Launch without Hydra. False, and nothing was done, where that cannot be.

    Parameters
    ----------
    several: whether -m is typed
    """
    from nano_exp.compose import quick, sweep

    points = quick.points(words, several)
    if not points:
        from nano_exp.advice import quickly

        if not several and (mistake := quickly.mistake(words)):
            raise mistake
        return False
    take(points, points[0].parameters, Path.cwd(), sweep.read(points[0].sweep).constraints)
    return True


def _prepare_hydra(take: Callable[..., object], ended: Callable[[int], object] | None) -> None:
    from nano_exp import hydra_internals
    from nano_exp.compose import conf_tree, recipe_file, resolvers
    from nano_exp.launch import hydra_plugins

    hydra_internals.compose_once()
    resolvers.register()
    hydra_plugins.register(take, ended)
    conf_tree.register()
    recipe_file.register(sys.argv[1:], conf_tree.CONF_DIR)


def not_our_path() -> UserError:
    """hydra.mode=RUN or another launcher would call the task function itself."""
    from nano_exp.launch import hydra_plugins

    return hydra_plugins.not_our_path()


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Bytes that are no UTF-8 could be written into no file of a run."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(
                ascii(word), "it has bytes that are not UTF-8 text", "type it again in a UTF-8 terminal"
            ) from None


def _refuse_other_mode(arguments: Sequence[str]) -> None:
    """Looked for before Hydra is called, which would make its output folder first."""
    for word in arguments:
        typed = Override.parse(word)
        if typed.key == "hydra.mode" and not typed.deletes and typed.unquoted.upper() != "MULTIRUN":
            raise not_our_path()


def _refuse_chain(arguments: Sequence[str]) -> None:
    """conf/chain is no group of one run's choices."""
    for word in arguments:
        if (typed := Override.parse(word)).key == "chain":
            others = [one for one in arguments if one != word and not one.startswith("-")]
            raise UserError(
                word,
                "a chain is several runs of which each starts from the one before, and launch.py composes one",
                f"nano-exp chain {' '.join([typed.unquoted, *others])}",
            )


def _require_optuna(arguments: Sequence[str]) -> None:
    with_optuna = any((one.key, one.unquoted) == ("hydra/sweeper", "optuna") for one in map(Override.parse, arguments))
    if with_optuna and importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise UserError(
            "hydra/sweeper=optuna",
            "hydra-optuna-sweeper is not installed here",
            "pip install 'nano-exp[optuna]', or pip install -e '.[optuna]' in a checkout",
        )


def report(error: Exception) -> int:
    """A mistake in words; our own fault as a traceback, saying so."""
    from nano_exp.compose.compose import TYPED

    cause: BaseException | None = error
    while cause is not None:  # Hydra wraps what its plugins raise
        if isinstance(cause, UserError):
            print(cause, file=sys.stderr)
            return cause.code
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, TYPED) and _from_composing(error):
        print(_explained(error), file=sys.stderr)
        return 2
    traceback.print_exc()
    print("\nThis is a fault of nano-exp, not of yours: please report it with the text above.", file=sys.stderr)
    return 70


def _from_composing(error: BaseException) -> bool:
    """Whether it was raised while Hydra read arguments and composed, not in our own code after it."""
    from nano_exp import hydra_internals

    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    around_hydra = (Path(__file__), Path(str(hydra_internals.__file__)))
    return not any(f.is_relative_to(around_hydra[0].parent) for f in frames if f not in around_hydra)


def _explained(error: Exception) -> UserError:
    from hydra.core.global_hydra import GlobalHydra

    from nano_exp import hydra_internals
    from nano_exp.advice import mistakes
    from nano_exp.compose import conf_tree

    GlobalHydra.instance().clear()
    arguments = hydra_internals.arguments()
    if arguments.cfg and arguments.multirun:
        return UserError(
            "--cfg with -m", "--cfg shows one composed config, and -m asks for several", "leave -m and the commas out"
        )
    with conf_tree.loader() as config_loader:
        return mistakes.explain(error, config_loader, arguments.overrides)
