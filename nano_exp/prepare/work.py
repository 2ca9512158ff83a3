"""Going through the steps: what is there is left alone, what is not is made under its lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.job import cache_lock
from nano_exp.prepare.conversion import Conversion
from nano_exp.prepare.step import MISSING, PARTLY, THERE, Look, Step
from nano_exp.store import runs
from nano_exp.text import Say


@dataclass(frozen=True)
class Result:
    """A step, and how it is with it.

    Parameters
    ----------
    made: whether this call made it
    hindered: why it was not made here, in words
    error: what went wrong
    """

    step: Step
    look: Look
    made: bool = False
    hindered: str = ""
    error: UserError | None = None

    @property
    def lacking(self) -> bool:
        return self.look.state in (MISSING, PARTLY)


def look(steps: Sequence[Step]) -> list[Result]:
    """What is there; nothing is made."""
    return [_looked(step) for step in steps]


def make(steps: Sequence[Step], say: Say, submit: bool = False) -> list[Result]:
    """Make what is not there, one step after the other. One that fails does not keep the others from being made.

    Parameters
    ----------
    submit: send a job for what takes GPUs that are not here
    """
    results = []
    for step in steps:
        result = _looked(step)
        if result.lacking and not result.hindered:
            result = _made(step, say)
        elif result.lacking and submit and isinstance(step, Conversion) and not step.place.contained:
            result = _sent(result, step)
        results.append(result)
    return results


def _looked(step: Step) -> Result:
    found = step.look()
    return Result(step, found, hindered=step.hindered() if found.state in (MISSING, PARTLY) else "")


def _sent(result: Result, step: Conversion) -> Result:
    try:
        return replace(
            result, hindered=f"job {step.submit()} makes it: nano-exp prepare ... --status tells when it is there"
        )
    except UserError as error:
        return replace(result, error=error)


def _made(step: Step, say: Say) -> Result:
    def told(line: str) -> None:
        say(line if line.startswith(f"{step.name}:") else f"{step.name}: {line}")

    waiter = cache_lock.Waiter(runs.this_process(), "", told, lambda: False)
    try:
        for cache in step.caches():
            files.make_dir(cache.lock, step.option)
        with cache_lock.hold(step.caches(), waiter) as hold:
            if step.look().state == THERE:  # somebody else made it meanwhile
                hold.whole()
                return Result(step, step.look())
            step.make(told)
            found = step.look()
            if found.state != THERE:
                raise UserError(
                    f"{step.name}: {found.found}",
                    "it was made, and is not whole",
                    step.command() or "the same command again",
                    1,
                )
            hold.whole()
    except UserError as error:
        return Result(step, step.look(), error=error)
    return Result(step, found, made=True)
