"""The folder that all runs are in. It loads nothing, for the command line's help."""

from __future__ import annotations

import os
from pathlib import Path

RESULTS_ENV = "NANO_EXP_RESULTS"


def default_results() -> Path:
    """Where runs are looked for: NANO_EXP_RESULTS, or ./results as a launch from here would write."""
    return Path(os.environ.get(RESULTS_ENV) or "results").expanduser().resolve()
