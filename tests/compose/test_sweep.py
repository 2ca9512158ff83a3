"""Named sweeps: their constraints, and what every shipped one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from core_case import ROOT, config_loader, frozen, spread
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from nano_exp.compose import conf_tree, family, sweep
from nano_exp.compose.freeze import Frozen, freeze_all
from nano_exp.errors import UserError
from nano_exp.launch import hydra_plugins

PLACES = (("nano_9b", "1n8g"), ("nano_30b", "2n8g"))
SHIPPED = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def constraint(require: str) -> sweep.Constraint:
    return sweep.read({"constraints": [{"require": require, "because": "reasons"}]}).constraints[0]


CONFIG = {"a": 6, "b": {"c": 4, "text": "M-E", "off": False, "nothing": None, "list": [1, 2]}}


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        ("a == 6", True),
        ("a % b.c == 0", False),
        ("a * b.c % 3 == 0 and a // b.c == 1", True),
        ("a / b.c == 1.5", True),
        ("-a + 10 - b.c == 0", True),
        ("1 < b.c <= 4", True),
        ("1 < b.c < 4", False),
        ('"E" in b.text', True),
        ("'X' not in b.text", True),
        ("b.c in (1, 2, 4)", True),
        ("b.c in b.list", False),
        ("not b.off", True),
        ("b.off == false and b.nothing == null", True),
        ("b.off or b.nothing", False),
        ("b.off and no.such.key > 1", False),  # the right side is not looked at
        ("get(no.such.key, 1) == 1", True),
        ("get(b.c, 1) == 4", True),
    ],
)
def test_a_constraint_reads_the_keys_of_a_config(require: str, expected: bool) -> None:
    assert constraint(require).holds(CONFIG) is expected


@pytest.mark.parametrize(
    "require",
    [
        "__import__('os').system('true')",
        "a if b else c",
        "[x for x in b.list]",
        "lambda: 1",
        "b['c']",
        "a ** 9",
        "f'{a}'",
    ],
)
def test_what_is_more_than_a_constraint_is_never_executed(require: str) -> None:
    with pytest.raises(UserError):
        constraint(require).holds(CONFIG)


@pytest.mark.parametrize(
    ("require", "said"),
    [
        ("b.cc == 4", "b.c in its place"),
        ("a % b.off.x == 1", "no key b.off.x"),
        ("a % 0 == 0", "cannot be computed"),
        ("b.text > 1", "cannot be computed"),
        ("b.text * 3 == 'x'", "not both numbers"),
        ("open(a)", "only function is get"),
    ],
)
def test_a_constraint_that_cannot_be_computed_says_why(require: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        constraint(require).holds(CONFIG)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "given", ["a > 1", ["a > 1"], [{"require": "a > 1"}], [{"require": "a >", "because": "x"}], {"require": "a"}]
)
def test_what_is_no_constraint_is_refused(given: Any) -> None:
    with pytest.raises(UserError):
        sweep.read({"constraints": given})


def a_point(seed: int) -> Frozen:
    return Frozen("name", str(seed), (f"grpo.seed={seed}",), {"grpo": {"seed": seed}})


def test_points_that_break_a_constraint_are_set_apart_with_it() -> None:
    rules = [constraint("grpo.seed > 1"), constraint("grpo.seed < 4")]
    kept, skipped = sweep.split([a_point(n) for n in range(1, 6)], rules)
    assert [one.digest for one in kept] == ["2", "3"]
    assert [(one.frozen.digest, one.broken) for one in skipped] == [("1", rules[0]), ("4", rules[1]), ("5", rules[1])]


def test_a_sweep_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 2 points"):
        sweep.split([a_point(1), a_point(2)], [constraint("grpo.seed > 2")])


def points_of(name: str, *typed: str) -> list[list[str]]:
    """The points of a shipped sweep, as the sweeper expands them."""
    loader = config_loader()
    arguments = [f"sweeps={name}", *typed]
    master = loader.load_configuration("config", arguments, run_mode=RunMode.MULTIRUN)
    parser = OverridesParser.create(config_loader=loader)
    own = parser.parse_overrides([f"{k}={v}" for k, v in master.hydra.sweeper.params.items()])
    return hydra_plugins.expand(own, parser.parse_overrides(arguments))


@pytest.mark.parametrize(
    ("name", "model", "cluster"), spread([(name, *place) for name in SHIPPED for place in PLACES], 3)
)
def test_a_shipped_sweep_gives_runs_of_its_name(name: str, model: str, cluster: str, tmp_path: Path) -> None:
    typed = (f"model={model}", f"cluster={cluster}")
    section = conf_tree.raw(config_loader().load_configuration("config", [f"sweeps={name}"], RunMode.MULTIRUN).sweep)
    points = points_of(name, *typed)
    wanted = [frozen(tmp_path, *one) for one in points]
    quickly = freeze_all(family.compose_points(config_loader(), points), tmp_path)
    assert [(one.digest, one.config) for one in quickly] == [(one.digest, one.config) for one in wanted]
    kept, _ = sweep.split(wanted, sweep.read(section).constraints)
    assert len(kept) > 1
    assert len({one.digest for one in wanted}) == len(wanted), "no two points are one run"
    assert {one.name for one in wanted} == {name}
    assert all("sweep" not in one.config for one in wanted)


def test_layouts_that_a_model_cannot_have_are_skipped(tmp_path: Path) -> None:
    section = conf_tree.raw(config_loader().load_configuration("config", ["sweeps=throughput"], RunMode.MULTIRUN).sweep)
    wanted = [frozen(tmp_path, *one) for one in points_of("throughput", "model=nano_9b", "cluster=1n8g")]
    _, skipped = sweep.split(wanted, sweep.read(section).constraints)
    layouts = {o for one in skipped for o in one.frozen.overrides if o.startswith("parallelism=")}
    assert layouts == {"parallelism=fsdp2_ep8", "parallelism=megatron_tp2_pp2_cp2_ep8"}
