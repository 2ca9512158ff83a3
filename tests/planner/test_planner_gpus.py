"""GPUs by name, type, site, and as nvidia-smi prints them; calibrations that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from planner_case import CONSTANTS, config

from nano_exp.errors import UserError
from nano_exp.planner import gpus
from nano_exp.planner.ranges import Range


def test_a_type_of_one_size_is_a_name() -> None:
    assert gpus.gpu("h100").name == "h100-80"
    assert gpus.gpu("H200-141").name == "h200-141"
    with pytest.raises(UserError, match="GPU 'a100'"):  # 40 or 80 GB?
        gpus.gpu("a100")


def test_slurms_type_gives_the_largest_so_that_nothing_is_refused_wrongly() -> None:
    found = gpus.of_type("a100")
    assert found is not None
    assert found.name == "a100-80"
    assert gpus.of_type("mi300x") is None


def test_the_site_names_its_gpu() -> None:
    assert gpus.of_site(config("model=nano_9b", "cluster=1n8g")).name == "h100-80"
    assert gpus.of_site(config("model=nano_9b", "cluster=1n8g", "site.gpu=b200-192")).name == "b200-192"


@pytest.mark.parametrize(
    ("printed", "mib", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-80"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80"),
        ("NVIDIA H200", 143771, "h200-141"),
        ("NVIDIA L40S", 46068, "l40s-48"),
    ],
)
def test_a_gpu_by_what_nvidia_smi_prints(printed: str, mib: float, name: str) -> None:
    found = gpus.of_smi(printed, mib)
    assert found is not None
    assert found.name == name


def test_an_unknown_gpu_of_nvidia_smi_is_none() -> None:
    assert gpus.of_smi("Tesla T4", 15360) is None


def test_every_constant_is_in_order() -> None:
    for name in gpus.NAMES:
        low, expected, high = getattr(CONSTANTS, name)
        assert 0 <= low <= expected <= high, name


@pytest.mark.parametrize(
    "text", ["constants: [", "[]", "constants: {fragments: [1, 0, 2]}", "constants: {nothing: [0, 1, 2]}"]
)
def test_a_damaged_calibration_is_refused_with_what_to_do(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "CALIBRATION", tmp_path)
    (tmp_path / "damaged.yaml").write_text(text)
    with pytest.raises(UserError, match=r"damaged\.yaml") as caught:
        gpus.constants("damaged")
    assert "--calibrate" in caught.value.fix


def test_a_calibration_replaces_the_constants_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "CALIBRATION", tmp_path)
    (tmp_path / "measured.yaml").write_text("constants: {context_gib: [1, 1.5, 2]}")
    found = gpus.constants("measured")
    assert found.context_gib == Range(1, 1.5, 2)
    assert found.fragments == CONSTANTS.fragments
