"""The figure: every term has its kind, files are written, and what is missing is said."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
from core_case import config_loader
from planner_case import CONSTANTS, H100, laid, read

from nano_exp.errors import UserError
from nano_exp.planner import describe, plot, proposal
from nano_exp.planner.phase_memory import phases
from nano_exp.planner.ranges import GIB


@cache
def made() -> proposal.Proposal:
    return proposal.propose(config_loader(), ["model=nano_12b", "cluster=1n8g"])


def test_figures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[plot]'")
    options = describe.chosen(made(), 1)
    plot.draw(made(), options, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    plot.draw(made(), options, tmp_path / "plan.svg")
    assert ElementTree.parse(tmp_path / "plan.svg").getroot().tag.endswith("svg")


def test_bars_add_up_to_the_phase_for_every_layout() -> None:
    thirty = read("model=nano_30b", "cluster=1n8g", "loss_fn.reference_policy_kl_penalty=0.01")
    for job in (read("model=nano_9b", "cluster=1n8g"), thirty, laid(thirty, offload=True)):
        for phase in phases(job, H100, CONSTANTS):
            if phase.name != "vllm share":
                assert sum(plot.stacked(phase).values()) == pytest.approx(phase.size.expected / GIB)


def test_the_published_layout_is_always_drawn() -> None:
    drawn = plot.panels(made(), describe.chosen(made(), 8))
    assert len(drawn) == plot.PANELS
    published = made().published
    assert published is not None
    assert published.layout in [option.layout for option in drawn]


def test_another_ending_a_missing_library_and_a_missing_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = describe.chosen(made(), 1)
    with pytest.raises(UserError, match=r"plan\.pdf"):
        plot.draw(made(), options, tmp_path / "plan.pdf")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(UserError, match="matplotlib is not installed") as caught:
            plot.draw(made(), options, tmp_path / "plan.png")
        assert "pip install" in caught.value.fix
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[plot]'")
    with pytest.raises(UserError, match="cannot write"):
        plot.draw(made(), options, tmp_path / "nothing" / "plan.png")
    assert list(tmp_path.iterdir()) == []
