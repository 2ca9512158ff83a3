"""Doctor: is this place fit to launch from? Checks that know nothing of each other, each with a limit of its own.

    checks(place) -> list[Checked]        all of them side by side; `told` shows it

A check is a function with `@check` in the module of its topic. What preflight knows already is asked of its rules
(`Place.rules`), so that a launch and the doctor say the same.
"""

from __future__ import annotations

# isort: off
from nano_exp.doctor import (  # noqa: F401  each registers its checks, in this order
    host_checks,
    slurm_checks,
    engine_checks,
    folder_checks,
    quota_checks,
    network_checks,
)

# isort: on
from nano_exp.doctor.check import Checked as Checked
from nano_exp.doctor.check import Said as Said
from nano_exp.doctor.check import run as run
from nano_exp.doctor.place import Place as Place
