"""The launcher's own keys and what each may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import frozen

from nano_exp.compose import launcher_settings
from nano_exp.errors import UserError


def test_every_key_of_the_launchers_own_has_a_kind() -> None:
    assert launcher_settings.names() - set(launcher_settings.SETTINGS) == set()


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("slurm.requeue", "yes", "slurm.requeue=true"),
        ("slurm.requeue", 0, "slurm.requeue=false"),
        ("slurm.max_attempts", 3.0, "slurm.max_attempts=3"),
        ("slurm.max_attempts", [3], "slurm.max_attempts=3"),
        ("slurm.max_attempts", [3, 4], "-m slurm.max_attempts=3,4, for a run of each value"),
        ("slurm.max_attempts", "word", "leave slurm.max_attempts=... out, or give a whole number, at least 1"),
        ("site.modules", "cuda", "site.modules=[cuda]"),
        ("site.entry", "docker", "leave site.entry=... out, or give one of bare, pyxis, apptainer"),
    ],
)
def test_what_to_type_for_a_value_of_another_kind(key: str, value: object, fix: str) -> None:
    kind = launcher_settings.SETTINGS[key]
    assert not kind.fits(value)
    assert launcher_settings.instead(key, value, kind) == fix


@pytest.mark.parametrize(
    ("typed", "found", "fix"),
    [
        ("++site.partiton=gpu", "site.partiton=gpu", "site.partition=gpu"),
        ("++slurm.time=5", "slurm.time=5", "leave slurm.time out"),
        ("++optimizer.learning_rate=0.1", "optimizer.learning_rate=0.1", "optimizer.lr=0.1"),
        ("++run.foo=1", "run.foo=1", "leave run.foo out"),
    ],
)
def test_an_added_key_that_nothing_reads_is_refused(tmp_path: Path, typed: str, found: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        frozen(tmp_path, typed)
    assert (caught.value.found, caught.value.fix) == (found, fix)


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [
        ("stop.reward_collapse", (0, -0.1, 1.5, 25, float("nan"), True), (0.25, 1, None)),
        ("stop.kl_above", (0, -2.0, float("inf"), float("nan")), (2.0, None)),
        ("stop.mixed_below", (-1, 100.5, float("nan")), (0, 1.0, 100, None)),
        *((f"stop.entropy_{side}", (0, -1), (0.01, None)) for side in ("below", "above")),
        *((f"stop.{count}_steps", (0, -3, 2.5), (1, None)) for count in ("flat", "nonfinite", "truncated")),
        ("stop.behind", (0, -1), (1, None)),
        *((f"stop.{span}", (0, -1, 1.5, None), (1, 20)) for span in ("after", "window")),
        ("halving.keep", (0, 1, -0.3, 34, None), (0.34,)),
        ("halving.rungs", ([0, 20], [-5], [1.5], ["20"], 20, None), ([], [20, 60])),
        ("halving.metric", (None, ["a"], ""), ("validation/accuracy",)),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    tmp_path: Path, key: str, bad: tuple[object, ...], good: tuple[object, ...]
) -> None:
    kind = launcher_settings.SETTINGS[key]
    assert [value for value in bad if kind.fits(value)] == []
    assert [value for value in good if not kind.fits(value)] == []
    section, _, name = key.partition(".")
    for value in bad:
        with pytest.raises(UserError, match=f"^error: {key}=") as caught:
            launcher_settings.require({section: {name: value}}, whole=False)
        assert caught.value.why == f"it must be {kind.says}" and caught.value.fix
