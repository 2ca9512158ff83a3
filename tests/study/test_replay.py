"""Forty studies over recorded runs: what docs/studies.md says of them."""

from __future__ import annotations

import re
import sys
from statistics import fmean

from core_case import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))
import study_replay


def test_forty_studies_find_the_grids_winner_at_two_fifths_of_its_cost() -> None:
    made = study_replay.studies(study_replay.load())
    part = fmean(one.part for one in made)
    assert len(made) == 40 and sum(one.right for one in made) >= 38
    assert part <= 0.40
    page = (ROOT / "docs" / "studies.md").read_text()
    said = re.search(r"(\d+) of 40 .*? ([\d.]+)% of the grid's GPU-seconds", page, re.DOTALL)
    assert said is not None and (int(said[1]), said[2]) == (sum(one.right for one in made), f"{part:.1%}"[:-1])
