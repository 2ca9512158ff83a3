"""Each number of the catalogue is demonstrated by a failing example, typed to `nano-exp check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_preflight_cluster
import test_preflight_driver
import test_preflight_dtensor
import test_preflight_late
import test_preflight_megatron
import test_preflight_policy
import test_preflight_vllm
from core_case import spread
from preflight_case import Case

from nano_exp import cli
from nano_exp.preflight import RULES

MODULES = (
    *(test_preflight_driver, test_preflight_cluster, test_preflight_policy, test_preflight_vllm, test_preflight_late),
    *(test_preflight_megatron, test_preflight_dtensor),
)
EXAMPLES: dict[int, Case] = {}
for _module in MODULES:
    for _case in _module.CASES:
        _number = RULES[_case.rule].number
        if _number is not None and _case.version == "v0.7.0" and _case.severity != "warning":
            EXAMPLES.setdefault(_number, _case)


def typed(override: str) -> str:
    """As one types it whether the key is there or not."""
    return override if override.startswith(("~", "+")) else f"++{override}"


def test_every_number_has_an_example() -> None:
    assert sorted(EXAMPLES) == list(range(1, 40))


@pytest.mark.parametrize("number", spread(sorted(EXAMPLES), 8))
def test_check_refuses_the_example_in_three_parts(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm here
    monkeypatch.delenv("NRL_IGNORE_TP_ACCURACY_CHECK", raising=False)
    case = EXAMPLES[number]
    code = cli.main(["check", "--json", *case.row, *map(typed, case.bad)])
    out, err = capsys.readouterr()
    assert code == 2, err
    found = [one for one in json.loads(out)["findings"] if one["number"] == number]
    assert found and all(one["severity"] == "error" and not one["ignored"] for one in found)
    assert all(one["found"] and one["cause"] and one["fix"] for one in found)
