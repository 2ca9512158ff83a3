"""What this user may charge, run and queue, and what Slurm itself says of the largest run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from nano_exp import slurm
from nano_exp.errors import choice, nearest
from nano_exp.preflight import place_facts
from nano_exp.preflight.answers import Answers
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View, whole
from nano_exp.slurm import arrays
from nano_exp.text import duration


@rule(place=True, engine=ANY_ENGINE)
def account_there(c: View) -> Iterator[Mistake]:
    """The account is one that this user may charge."""
    answers = c.facts.answers
    account = place_facts.parameter(c, "account")
    if not c.on_slurm or answers is None or not answers.associations or not account or not _enforced(c):
        return
    accounts = sorted({a.account for a in answers.associations})
    if account not in accounts:
        yield Mistake(
            (),
            f"you may charge: {', '.join(accounts)}",
            choice("site.account=", nearest(str(account), accounts), accounts),
            f"account {account} is not yours",
        )


def _enforced(c: View) -> bool:
    settings = c.facts.answers.settings if c.facts.answers is not None else None
    return bool(settings) and "associations" in str((settings or {}).get("AccountingStorageEnforce", "")).lower()


@rule(place=True, engine=ANY_ENGINE)
def qos_allows(c: View) -> Iterator[Mistake]:
    """The QOS is one of this user's, and allows the time asked for."""
    answers, qos, minutes = c.facts.answers, place_facts.parameter(c, "qos"), place_facts.parameter(c, "timeout_min")
    if not c.on_slurm or answers is None or not qos or not _enforced(c):
        return
    allowed = sorted({name for a in answers.associations or () for name in a.qos})
    if allowed and qos not in allowed:
        yield Mistake(
            (),
            f"your QOS are: {', '.join(allowed)}",
            choice("site.qos=", nearest(str(qos), allowed), allowed),
            f"QOS {qos} is not yours",
        )
        return
    for known in answers.qos or ():
        limit = known.max_minutes
        if known.name == qos and limit is not None and isinstance(minutes, int | float) and minutes > limit:
            yield Mistake(
                (),
                f"QOS {qos} allows {duration(60 * limit)} at most",
                f"hydra.launcher.timeout_min={limit:.0f}, or another site.qos=",
                f"a time limit of {duration(60 * minutes)}",
            )


@rule(place=True, engine=ANY_ENGINE)
def submit_limit(c: View) -> Iterator[Mistake]:
    """No job array is larger than what this user may have queued; a sweep that is goes out in parts."""
    answers = c.facts.answers
    if not c.on_slurm or answers is None or not _enforced(c):
        return
    account, qos = place_facts.parameter(c, "account"), place_facts.parameter(c, "qos")
    limits = [a.max_submit for a in answers.associations or () if not account or a.account == account]
    limits += [known.max_submit for known in answers.qos or () if known.name == qos]
    known_limits = [limit for limit in limits if limit is not None]
    count = sum(c.facts.new.values())
    if not known_limits or count <= (limit := min(known_limits)):
        return
    most = min(whole(c.launcher("slurm").get("max_array")) or count, _max_array(answers) or count)
    fits = max(len(chunk) for n in c.facts.new.values() for chunk in arrays.chunks(n, most)) <= limit
    yield Mistake(
        (),
        f"you may have {limit} jobs queued at once here, and each run is one"
        + (": arrays that fit are sent, those that do not are refused" if fits else "; Slurm takes an array whole"),
        "the same command again, when some have ended, sends the rest"
        if fits
        else f"slurm.max_array={max(1, limit // 4)}: what fits is sent, and the same command again sends the rest",
        f"{count} runs to submit",
        severity="warning" if fits else "error",
    )


def _max_array(answers: Answers) -> int | None:
    text = str((answers.settings or {}).get("MaxArraySize", ""))
    return int(text) if text.isdigit() else None


#: Words of a refusal of sbatch --test-only that are of the moment: sbatch itself would queue the job.
_OF_THE_MOMENT = re.compile(r"busy|not available|unavailable|down|drain|reserved", re.IGNORECASE)


@rule(place=True, engine=ANY_ENGINE, of_slurm=True)
def slurm_accepts(c: View) -> Iterator[Mistake]:
    """Slurm itself, asked with sbatch --test-only for the largest run, would take the job."""
    test = c.facts.answers.test if c.facts.answers is not None else None
    if not c.on_slurm or test is None or not test.refused:
        return
    why, fix = slurm.remedy(test.refused)
    passing = bool(_OF_THE_MOMENT.search(test.refused))
    yield Mistake((), why, fix, f"sbatch --test-only: {test.refused}", severity="warning" if passing else "error")


def start_line(test: Any, now: float | None = None) -> str:
    """When Slurm expects to start the job, in words; empty where it does not say."""
    if test is None or test.start is None:
        return ""
    wait = (test.start - (time.time() if now is None else now)) / 60
    if wait < 2:
        return "Slurm would start it at once (sbatch --test-only)"
    at = time.strftime("%d %b %H:%M", time.localtime(test.start))
    return f"Slurm expects to start it about {at}, in {duration(60 * wait)} (sbatch --test-only)"
