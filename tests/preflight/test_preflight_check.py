"""`nano-exp check`, `ignore=`, and what is shown: grouped findings, three parts each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from core_case import everything_below, frozen
from preflight_case import NINE, TWELVE, TWELVE_2

from nano_exp import cli, preflight
from nano_exp.errors import UserError
from nano_exp.preflight import wording
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.registry import RULES
from nano_exp.preflight.run import Report, examine

BAD = "policy.train_global_batch_size=100"


@pytest.fixture(autouse=True)
def _no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def report(*points: tuple[str, ...], ignore: tuple[str, ...] = ()) -> Report:
    return examine([frozen(Path("/launch"), *point) for point in points], Facts(environ={}), ignore)


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["check", *words])
    out, err = capsys.readouterr()
    return code, out + err


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_good_config_is_exit_code_0_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, *NINE)
    assert code == 0
    assert "preflight: 1 point, no errors" in out
    assert "rule: metric_between_validations" in out
    assert "32 GPU-hours a run" in out
    assert everything_below(tmp_path) == []


def test_a_bad_config_is_exit_code_2_with_three_parts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, *TWELVE, BAD)
    assert code == 2
    assert re.search(
        r"^error: policy\.train_global_batch_size=100, .+\n  why: .+32 x 16 = 512 .+\n  fix: policy\..+=512.*\n"
        r"  rule: whole_global_batches$",
        out,
        re.MULTILINE,
    )


def test_commas_make_a_sweep_with_and_without_m(capsys: pytest.CaptureFixture[str]) -> None:
    axes = ("grpo.num_generations_per_prompt=4,5", "policy.train_global_batch_size=128,160")
    code, out = check(capsys, "-m", *TWELVE, *axes)
    assert code == 2
    assert "rule: whole_global_batches; 2 of 4 points" in out
    assert "in: grpo.num_generations_per_prompt=4 policy.train_global_batch_size=160\n" in out
    assert check(capsys, *TWELVE, *axes) == (code, out)


def test_json_has_every_finding_with_its_points(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, "--json", *TWELVE, "policy.train_global_batch_size=100,512")
    data = json.loads(out)
    (found,) = [f for f in data["findings"] if f["rule"] == "whole_global_batches"]
    assert code == 2
    assert (found["number"], found["severity"], found["points"], found["ignored"]) == (26, "error", [0], False)
    assert found["keys"]["policy.train_global_batch_size"] == "100"
    assert all(found[part] for part in ("found", "cause", "fix"))
    assert data["errors"] == len({f["rule"] for f in data["findings"] if f["severity"] == "error"})
    assert data["cost"]["gpu_hours"] == 64.0
    assert data["cost"]["largest_gpu_hours"] == 32.0


@pytest.mark.parametrize(
    "words",
    [("model=nano_9",), (*NINE, "grpo.seed"), (*NINE, "grpo.sed=1"), (*NINE, "env.x=hf_abcdefghijklmnopqrstuvwx")],
)
def test_what_cannot_be_composed_is_told_as_by_a_launch(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = check(capsys, *words)
    assert code == 2
    assert re.match(r"error: .+\n  why: .+\n  fix: .+\n$", out)


def test_the_table_of_rules(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, "--rules")
    assert code == 0
    assert [line.split("`")[1] for line in out.splitlines()[2:]] == list(RULES)
    assert [row["name"] for row in json.loads(check(capsys, "--rules", "--json")[1])] == list(RULES)


def test_a_host_without_slurm_warns_about_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, *TWELVE)
    assert code == 0
    assert "warning: no sbatch on PATH" in out
    assert "warning: site.checkout=null" in out


def test_the_embedded_engine_is_shown_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, "grpo.num_generations_per_prompt=1")
    assert code == 2
    assert re.match(r"error: grpo\.num_generations_per_prompt=1\n  why: .+\n  fix: .+\n  rule: embedded_engine\n", out)
    assert check(capsys)[0] == 0


def test_all_that_the_embedded_engine_refuses_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("engine.threads=0", "engine.device=tpu", "policy.precision=float16", "grpo.max_num_epochs=1.5")
    assert set(re.findall(r"error: (.+)", check(capsys, *words)[1])) == set(words)
    found = json.loads(check(capsys, *words, "--json")[1])["findings"]
    assert {key: value for one in found for key, value in one["keys"].items()} == dict(w.split("=") for w in words)
    assert all(one["rule"] == "embedded_engine" and one["cause"] and one["fix"] for one in found)


# --- ignoring -------------------------------------------------------------------------------------------------------


def test_an_ignored_rule_does_not_count_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, *TWELVE, BAD, "ignore=[whole_global_batches]")
    assert code == 0
    assert "ignored, as told: errors of whole_global_batches" in out
    assert check(capsys, *TWELVE, BAD, "ignore=whole_global_batches")[0] == 0


def test_place_ignores_all_that_is_about_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    out = check(capsys, *TWELVE, "ignore=[place]")[1]
    assert "no sbatch" not in out
    assert "site.checkout" not in out


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("[whole_global_batch]", "ignore=[whole_global_batches]"),
        ("[plaec]", "ignore=[place]"),
        ("[x]", "nano-exp check --rules"),
        ("3", "ignore=[whole_micro_batches,place]"),
    ],
)
def test_a_rule_that_is_none_is_refused_with_the_nearest(value: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        preflight.ignored([frozen(Path("/launch"), *TWELVE, f"ignore={value}")])
    assert fix in caught.value.fix


def test_ignoring_is_for_the_whole_launch() -> None:
    with pytest.raises(UserError, match="differs"):
        preflight.ignored([frozen(Path("/launch"), *TWELVE, f"ignore={v}") for v in ("[place]", "[]")])


def test_what_is_ignored_makes_no_other_run() -> None:
    plain, ignoring = (frozen(Path("/launch"), *TWELVE, *more) for more in ((), ("ignore=[place]",)))
    assert plain.digest == ignoring.digest
    assert plain.overrides == ignoring.overrides
    assert ignoring.config["ignore"] == ["place"]


# --- grouping -------------------------------------------------------------------------------------------------------


def test_equal_findings_are_one_and_say_how_many_points() -> None:
    sizes = (BAD, "grpo.seed=1", "grpo.seed=2")
    points = [(*TWELVE, f"optimizer.lr={lr}", size) for lr in ("1e-6", "2e-6") for size in sizes]
    said = str(wording.Refusal(report(*points, ignore=("place",))))
    assert said.count("error:") == 1
    assert "rule: whole_global_batches; 2 of 6 points: optimizer.lr=1e-6 policy.train_global_batch_size=100 | " in said
    assert said.endswith("'ignore=[whole_global_batches]'")


def test_many_forms_of_one_finding_are_cut() -> None:
    points = [(*TWELVE, f"policy.train_global_batch_size={size}") for size in (100, 101, 102, 103, 104)]
    said = str(wording.Refusal(report(*points, ignore=("place", "whole_micro_batches"))))
    assert said.count("error:") == 3
    assert "... and 2 more like it, with other values" in said
    assert "5 of 5 points" in said


def test_errors_come_first_and_each_engine_has_its_own_rules() -> None:
    made = report((*NINE, "grpo.val_at_end=1"), ("grpo.num_generations_per_prompt=1",), TWELVE_2)
    assert [g.finding.severity for g in made.groups] == sorted(g.finding.severity for g in made.groups)
    assert {g.finding.rule for g in made.errors} >= {"value_type", "embedded_engine"}
