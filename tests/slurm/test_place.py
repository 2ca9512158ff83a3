"""Preflight's questions about the place, answered by a real Slurm."""

from __future__ import annotations

import pytest
from launching import NANO_12B, Lab

pytestmark = pytest.mark.slurm


def test_a_real_slurm_is_asked_and_a_wrong_place_stops_the_launch(lab: Lab) -> None:
    said = lab.tool("check", *NANO_12B)
    assert "Slurm would start it at once" in said or "Slurm expects to start it about" in said
    assert "not checked" not in said
    assert "no errors" in said
    wrong = lab.launch(*NANO_12B, "site.partition=bach", "site.account=reserch", "++cluster.num_nodes=3", code=2).text
    assert "error: partition bach\n" in wrong
    assert "fix: site.partition=batch\n" in wrong
    assert "error: account reserch is not yours\n" in wrong
    assert "fix: site.account=research\n" in wrong
    assert "rule: slurm_accepts" in wrong
    assert list(lab.folder.iterdir()) == []
