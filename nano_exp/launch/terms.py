"""The terms of a launch: how many runs at once, after what, and when the rest is not worth starting."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from nano_exp.after import follow
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.overrides import Override
from nano_exp.store.run_config import TERMS
from nano_exp.study import halving, stop_rules

#: The word for a canary where one is of use.
AUTO = "auto"


@dataclass(frozen=True)
class Terms:
    """What holds for all arrays of one launch.

    Parameters
    ----------
    parallel: at most this many of its runs at once; None: as many as hydra.launcher.array_parallelism an array
    after: runs, names or Slurm jobs that have to end first, as typed
    fail_fast: this many failed runs stop those that wait; None: none do
    canary: two steps of one run come before everything else; None: where runs share caches that are not made yet
    budget: GPU-hours of the names from now on (infinite: without a limit); None: as they are
    halving: its study's rungs (nano_exp.study.halving); empty: every run trains to its end
    stop: the rules that end a run which is lost (nano_exp.study.stop_rules); empty: none do
    pack: so many of its runs at once in one allocation (nano_exp.launch.packing); None: each has its own
    after_training: what is done with runs that are done (nano_exp.after.follow)
    """

    parallel: int | None = None
    after: tuple[str, ...] = ()
    fail_fast: int | None = None
    canary: bool | None = False
    budget: float | None = None
    stop: Mapping[str, Any] = field(default_factory=dict)
    halving: Mapping[str, Any] = field(default_factory=dict)
    pack: int | None = None
    after_training: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For the launch's manifest; `of_manifest` reads it."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        values.pop("budget")  # the names keep it (nano_exp.store.budget)
        return values


def read(frozen_configs: Sequence[Frozen], typed: Sequence[str] = ()) -> Terms:
    """The terms of a launch from its points. Raises UserError for values that cannot be, or that differ.

    Parameters
    ----------
    typed: the overrides of a point as they were typed
    """
    _refuse_joined_digits(typed)
    first = frozen_configs[0].config
    for key in TERMS:
        if any(frozen.config.get(key) != first.get(key) for frozen in frozen_configs):
            raise UserError(f"points of one launch have different {key}=", "it holds for a whole launch", f"{key}=...")
    counts = (_count(first, "parallel"), _words(first.get("after")), _count(first, "fail_fast"))
    canary, budget = _canary(first.get("canary", False)), _budget(first.get("budget"))
    return Terms(*counts, canary, budget, _stop(first.get("stop")), _halving(first), _pack(first), _after(first))


def _stop(section: Any) -> dict[str, Any]:
    """The `stop` section where it has a rule; else nothing."""
    known = section if isinstance(section, dict) else {}
    return known if stop_rules.on(known) else {}


def _halving(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `halving` section where it has rungs; else nothing."""
    try:
        rules = halving.of(config.get("halving"))
    except (KeyError, TypeError, ValueError):
        rules = None
    return rules.as_dict() if rules is not None else {}


def _after(section: Mapping[str, Any]) -> tuple[str, ...]:
    """`after_training`: nothing, one word or a list of them."""
    value = section.get("after_training")
    words = value if isinstance(value, list) else [] if value is None else [value]
    follow.require([str(word) for word in words])
    return tuple(map(str, words))


def _off(key: str, value: Any) -> dict[str, Any]:
    """stop=off (false to YAML) or halving=null of a retry; a mapping is what was there before."""
    if isinstance(value, dict):
        return value
    if value in (None, False, "off"):
        return {}
    raise UserError(f"{key}={value}", "a retry can only turn it off", f"{key}=off, or launch it again with others")


def _budget(value: Any) -> float | None:
    """GPU-hours above 0; inf is no limit."""
    if value is None:
        return None
    try:
        number = 0.0 if isinstance(value, bool) else float(value)  # a word, as 1e3 is to YAML, may be a number
    except (TypeError, ValueError):
        number = 0.0
    if number > 0:
        return number
    raise UserError(
        f"budget={value!r}", "it must be GPU-hours, above 0", "budget=500, or budget=inf, which takes a limit away"
    )


def _canary(value: Any) -> bool | None:
    """As typed: true, false, or auto (None); null is false."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if value == AUTO:
        return None
    raise UserError(
        f"canary={value!r}",
        "it must be true, false, or auto (where the launch's runs share caches that are not made yet)",
        "canary=true, canary=false or canary=auto",
    )


def _count(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is None or (type(value) is int and value >= 1):
        return value
    raise UserError(f"{key}={value!r}", "it must be a number of runs, at least 1", f"{key}=4, or leave it out")


def _pack(config: Mapping[str, Any]) -> int | None:
    """One run in an allocation is what there is without it."""
    count = _count(config, "pack")
    return None if count == 1 else count


def _words(value: Any) -> tuple[str, ...]:
    """`after`: nothing, one word or a list of them; a Slurm job may be typed as a number."""
    words = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(word, bool) or not isinstance(word, int | str) or not str(word).strip() for word in words):
        raise UserError(
            f"after={value!r}", "it names runs or Slurm jobs", "after=RUN, after=JOB or 'after=[RUN,afterany:JOB]'"
        )
    return tuple(str(word).strip() for word in words)


def _refuse_joined_digits(typed: Sequence[str]) -> None:
    """`after=12_3` is the number 123 to Hydra, as 1_000 is 1000: another job than the one that is meant."""
    for override in typed:
        one = Override.parse(override)
        if one.key == "after" and (joined := re.search(r"(?<![\w:'\"])\d+_\d+(?!\w)", one.value)):
            raise UserError(
                override,
                f"{joined[0]} is read as the number {joined[0].replace('_', '')}",
                f"after=afterok:{joined[0]}",
            )


def of_manifest(manifest: Mapping[str, Any], after: Sequence[str] = ()) -> Terms:
    """A launch's terms, which hold for a retry of its runs too. A damaged manifest has none.

    Parameters
    ----------
    after: what it waits for, word by word, as it was resolved: a name may have other runs by now
    """
    record = manifest.get("terms")
    terms = record if isinstance(record, dict) else {}
    try:
        canary = terms.get("canary") is True
        counts = (_count(terms, "parallel"), tuple(after), _count(terms, "fail_fast"))
        return Terms(*counts, canary, None, _stop(terms.get("stop")), _halving(terms), _pack(terms), _after(terms))
    except UserError:
        return Terms(after=tuple(after))


def changed(terms: Terms, typed: Sequence[str]) -> Terms:
    """Terms with some typed anew: `parallel=4`, `after=null`, ... Raises UserError for values that cannot be."""
    values: dict[str, Any] = {**terms.as_dict(), "budget": None}
    for override in typed:
        one = Override.parse(override)
        key, text = one.key, one.value
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            problem = " ".join(str(error).split())
            raise UserError(
                override, f"the value is not valid YAML: {problem}", f"{key}=VALUE or {key}=null"
            ) from error
        if isinstance(value, list):
            _refuse_joined_digits([override])
        # A single word as it is typed: 12_3 is a number to YAML.
        values[key] = text if key == "after" and isinstance(value, str | int | float) else value
    counts = (_count(values, "parallel"), _words(values["after"]), _count(values, "fail_fast"))
    canary, budget = _canary(values["canary"]), _budget(values["budget"])
    rules = (_off("stop", values["stop"]), _off("halving", values["halving"]))
    return Terms(*counts, canary, budget, *rules, _pack(values), _after(values))


def settled(terms: Terms, cold: bool) -> Terms:
    """The terms with canary=auto decided.

    Parameters
    ----------
    cold: several runs are sent to Slurm now, and share caches that are not made yet
    """
    return terms if terms.canary is not None else replace(terms, canary=cold)


def require(terms: Terms, where: str, submit: bool) -> None:
    """Refuse terms that the place cannot keep. Raises UserError."""
    by_key = {key: getattr(terms, key) for key in ("after", "fail_fast", "canary", "budget")}
    typed = [key for key, value in by_key.items() if value]
    if where == "local" and typed:
        raise UserError(
            f"{' and '.join(typed)} with slurm.where=local",
            "Slurm keeps them, and runs of this machine have none",
            "leave them out (parallel=N works here too), or choose a cluster= of Slurm's",
        )
    if not submit and terms.pack:
        raise UserError(
            f"pack={terms.pack} with submit=false",
            "sweep.sbatch gives each run an allocation of its own",
            "leave one of the two out",
        )
    if not submit and terms.after_training:
        raise UserError(
            "after_training with submit=false",
            "its jobs wait for the runs' jobs, which have no number before they are submitted",
            "leave it out; later: nano-exp export RUN --submit, nano-exp eval RUN --submit",
        )
    if not submit and terms.canary:
        raise UserError(
            "canary=true with submit=false",
            "the arrays wait for the canary's job, which has no number before it is submitted",
            "leave one of the two out",
        )
