"""docs/planner.md shows what the commands print, and names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from core_case import ROOT

from nano_exp import cli
from nano_exp.planner import gpus
from nano_exp.planner.phase_memory import COMFORT, REFIT_RATIO

PAGE = (ROOT / "docs" / "planner.md").read_text()
BLOCKS = re.findall(r"^```\n\$ nano-exp (plan .*)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)


def test_the_page_has_a_plan_of_each_published_recipe() -> None:
    shown = [re.findall(r"(?:model|cluster)=(\S+)", command) for command, _ in BLOCKS]
    assert shown == [[m, c] for m in ("nano_9b", "nano_12b", "nano_30b") for c in ("1n8g", "2n8g")]


@pytest.mark.parametrize(("command", "printed"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_a_plan_is_what_its_command_prints(
    command: str, printed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpus, "CALIBRATION", tmp_path)
    monkeypatch.setattr(gpus, "constants", lambda name: gpus.assumed())
    assert cli.main(command.split()) == 0
    assert capsys.readouterr().out == printed


def test_the_page_names_every_gpu_and_the_numbers_of_the_code() -> None:
    assert f"`--gpu` (or `site.gpu`): {', '.join(gpus.gpus())} (" in PAGE
    assert f"leaves {COMFORT:.0%} of the GPU free" in PAGE
    assert f"a buffer of {REFIT_RATIO} of what is free" in PAGE
