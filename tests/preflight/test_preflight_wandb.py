"""W&B's names, tags and settings: refused here where W&B's own client refuses them, and where only its service does."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from preflight_case import TWELVE, Case, assert_case, config, said

from nano_exp.preflight import RULES, wandb_names
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.view import View

ON = "logger.wandb_enabled=true"
W = "logger.wandb"
LONG = "x" * 129
CASES = [
    Case("wandb_names", TWELVE, (ON, f"{W}.project=a/b"), (f"{W}.project=a-b",)),
    Case("wandb_names", TWELVE, (ON, f"{W}.project={LONG}"), (f"{W}.project={LONG[:128]}",)),
    *(
        Case("wandb_names", TWELVE, (ON, f"{W}.{name}={LONG}"), (f"{W}.{name}={LONG[:128]}",))
        for name in ("name", "group", "entity", "job_type", "id")
    ),
    Case("wandb_names", TWELVE, (ON, f"{W}.id=a:b"), (f"{W}.id=a-b",)),
    Case("wandb_tags", TWELVE, (ON, "run.tags=foo"), ("run.tags=[foo]",)),
    Case("wandb_tags", TWELVE, (ON, f"{W}.tags=foo"), (f"{W}.tags=[foo]",)),
    Case("wandb_tags", TWELVE, (ON, f"run.tags=[a, {LONG[:65]}]"), (f"run.tags=[a, {LONG[:64]}]",)),
    Case("wandb_tags", TWELVE, (ON, "run.tags=['', b]"), ("run.tags=[b]",)),
    Case("wandb_settings", TWELVE, (ON, f"{W}.gruop=a"), (f"~{W}.gruop",), typed=False),
    Case("wandb_settings", TWELVE, (ON, f"{W}.mode=ofline"), (f"{W}.mode=offline",)),
    Case("wandb_settings", TWELVE, (ON, f"{W}.resume=alow"), (f"{W}.resume=allow",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_wandb_refuses_is_refused_before(case: Case) -> None:
    assert_case(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_asked_of_a_run_without_wandb(case: Case) -> None:
    assert not said(case.rule, TWELVE, ("logger.wandb_enabled=false", *case.bad[1:]))


def test_parameters_of_wandb_init_are_known_without_being_declared() -> None:
    typed = (ON, f"++{W}.group=a", f"++{W}.notes=b", f"++{W}.resume=true")
    for rule in ("wandb_settings", "unknown_key", "wandb_names"):
        assert not said(rule, TWELVE, typed)


#: A name of each kind: with each character that a keyboard has, of the lengths at the limits, empty.
NAMES = [*(f"a{character}b" for character in " !\"#$%&'()*+,-./:;<=>?@[]^_`{|}~\\"), "x" * 128, LONG, "ä"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("key", "setting"), [("project", "project"), ("id", "run_id")])
def test_wandbs_own_validators_agree(key: str, setting: str, name: str) -> None:
    """Its client refuses nothing that passes here; longer ids, which it takes, its service refuses."""
    changed = config(TWELVE, (ON,))
    changed["logger"]["wandb"][key] = name
    ours = list(RULES["wandb_names"].findings(View(changed, [], Facts(environ={}))))
    assert bool(ours) == (_refused(**{setting: name}) or (key == "id" and len(name) > 128))


@pytest.mark.parametrize("tags", [["a"], ["a" * 64], ["a" * 65], [""], [], ["ok", ""], ["a b"], ["a/b"]])
def test_wandbs_own_validator_of_tags_agrees(tags: list[str]) -> None:
    changed = config(TWELVE, (ON,))
    changed["run"]["tags"] = tags
    ours = list(RULES["wandb_tags"].findings(View(changed, [], Facts(environ={}))))
    assert bool(ours) == _refused(run_tags=tags)


@pytest.mark.parametrize("name", ["mode", "resume"])
def test_the_values_that_wandb_knows_are_those_known_here(name: str) -> None:
    values = {"mode": wandb_names.MODES, "resume": wandb_names.RESUMES}[name]
    assert not any(_refused(**{name: value}) for value in values)
    assert _refused(**{name: "another"})


def test_the_parameters_are_those_of_wandb_init() -> None:
    wandb = pytest.importorskip("wandb")
    own = set(inspect.signature(wandb.init).parameters) - {"config", "dir", "settings"}
    assert own == set(wandb_names.PARAMETERS)


def _refused(**settings: Any) -> bool:
    wandb = pytest.importorskip("wandb")
    try:
        wandb.Settings(**settings)
    except (wandb.errors.UsageError, ValueError):
        return True
    return False
