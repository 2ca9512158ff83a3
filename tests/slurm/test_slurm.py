"""What Slurm's answers mean: squeue's lines, sbatch's refusals, the environment of its commands."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_exp import slurm
from nano_exp.errors import UserError
from nano_exp.slurm import Job, Queue

# --- scontrol show config ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("MaxArraySize            = 1001\nMaxJobCount             = 10000\n", 1001),
        ("MaxArraySize            = 40001\nMaxJobCount             = 10000\n", 10000),
        ("MaxArraySize = 1001\nSchedulerParameters     = bf_window=2880,max_array_tasks=200,defer\n", 200),
        ("MaxArraySize            = 0\n", 1),
        ("MaxJobCount             = 10000\n", None),
        ("slurm_load_ctl_conf error: Unable to contact slurm controller", None),
    ],
)
def test_the_smallest_limit_of_an_array_counts(text: str, limit: int | None) -> None:
    assert slurm.parse_array_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("KillOnBadExit           = 0\nKillWait                = 30 sec\n", 30), ("KillWait = 2\n", 2), ("", None)],
)
def test_how_long_slurm_waits_before_it_kills(text: str, seconds: float | None) -> None:
    assert slurm.parse_kill_wait(text) == seconds


@pytest.mark.parametrize(
    ("code", "stderr", "wrong"),
    [
        (0, "", ""),
        (1, "16_0: Job has already finished\n16_1-4: No error\n", ""),
        (1, "Invalid job id specified for job 16\n", ""),  # it is gone
        (1, "16_0: No error\n16_1-4: Access/permission denied\n", "16_1-4: Access/permission denied"),
        (
            1,
            "slurm_update error: Unable to contact slurm controller",
            "slurm_update error: Unable to contact slurm controller",
        ),
        (1, "", "scontrol ended with 1"),
    ],
)
def test_a_throttle_counts_as_set_when_every_part_that_is_left_has_it(
    code: int, stderr: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm.client, "run", lambda argv: subprocess.CompletedProcess(argv, code, "", stderr))
    assert slurm.throttle("16", 2) == wrong


# --- squeue ---------------------------------------------------------------------------------------------------------

LINES = {
    "12|RUNNING|name|None": Job("12", None, "RUNNING", "name", "None"),
    "12_3|RUNNING|name|None": Job("12", (3,), "RUNNING", "name", "None"),
    "12_[4-6]|PENDING|name|Priority": Job("12", (4, 5, 6), "PENDING", "name", "Priority"),
    "12_[1,3,5-7%2]|PENDING|n|JobArrayTaskLimit": Job("12", (1, 3, 5, 6, 7), "PENDING", "n", "JobArrayTaskLimit", 2),
    "12_[0-8:4]|PENDING|n|Resources": Job("12", (0, 4, 8), "PENDING", "n", "Resources"),
    "12|PENDING|n|ReqNodeNotAvail, UnavailableNodes:n[1-2]": Job(
        "12", None, "PENDING", "n", "ReqNodeNotAvail, UnavailableNodes:n[1-2]"
    ),
    "12|PENDING|n|a|b": Job("12", None, "PENDING", "n", "a|b"),
    "12|COMPLETING|n|None": Job("12", None, "COMPLETING", "n", "None"),
    "13+0|RUNNING|het|None": Job("13", None, "RUNNING", "het", "None"),
}


@pytest.mark.parametrize(("line", "job"), LINES.items(), ids=LINES.keys())
def test_a_line_of_squeue(line: str, job: Job) -> None:
    assert slurm.parse_squeue_line(line) == job
    assert slurm.parse_squeue_line(f"  {line}\n") == job


@pytest.mark.parametrize(
    "line", ["", "garbage", "a|b", "x|RUNNING|name|None", "12.0|RUNNING|n|None", "slurm_load_jobs error"]
)
def test_what_is_no_line_of_squeue(line: str) -> None:
    assert slurm.parse_squeue_line(line) is None


@pytest.mark.parametrize("state", sorted(slurm.ENDED))
def test_an_ended_job_that_slurm_still_lists_is_not_active(state: str) -> None:
    assert slurm.parse_squeue_line(f"12|{state}|n|None") is None


@given(st.sets(st.integers(0, 200), min_size=1), st.sampled_from(["", "%4"]))
@settings(max_examples=200, deadline=None)
def test_any_set_of_tasks_is_read_back(tasks: set[int], limit: str) -> None:
    """Written as Slurm writes it: runs of numbers as ranges."""
    parts: list[list[int]] = []
    for number in sorted(tasks):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    text = ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
    assert slurm.parse_tasks(f"[{text}{limit}]") == tuple(sorted(tasks))


def queue(*lines: str) -> Queue:
    return Queue([job for line in lines if (job := slurm.parse_squeue_line(line))])


def test_a_job_and_a_task_are_found_by_their_ids() -> None:
    now = queue("12_1|RUNNING|a|None", "12_[2-4]|PENDING|a|Priority", "15|RUNNING|b|None")
    found = {task: now.find("12", task) for task in range(6)}
    states = {task: job.state if job else None for task, job in found.items()}
    assert states == {0: None, 1: "RUNNING", 2: "PENDING", 3: "PENDING", 4: "PENDING", 5: None}
    assert now.find("15") is not None
    assert now.find("15", 3) is not None, "an array of one is a plain job to Slurm"
    assert now.find("12") is not None, "asked for as a whole"
    assert now.find("1") is None


def test_a_job_is_found_by_its_whole_name() -> None:
    now = queue("12_1|RUNNING|nx-L.0-a|None", "15|PENDING|nx-L.1-a|None")
    found = {name: now.named(name) for name in ("nx-L.0-a", "nx-L.1-a", "nx-L.1")}
    assert {name: job.id if job else None for name, job in found.items()} == {
        "nx-L.0-a": "12",
        "nx-L.1-a": "15",
        "nx-L.1": None,
    }
    assert now.named("nx-L.0-a", 1) is not None
    assert now.named("nx-L.0-a", 2) is None, "another task than those that are queued"


# --- sbatch ---------------------------------------------------------------------------------------------------------

FAILED = "sbatch: error: Batch job submission failed: "
REFUSALS = {
    f"sbatch: error: invalid partition specified: gpuu\n{FAILED}Invalid partition name specified": "site.partition",
    f"{FAILED}Invalid account or account/partition combination specified": "site.account",
    f"{FAILED}Invalid qos specification": "site.qos",
    f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)": "timeout_min",
    f"{FAILED}Requested node configuration is not available": "sinfo",
    f"{FAILED}Node count specification invalid": "sinfo",
    f"{FAILED}Invalid job array specification": "MaxArraySize",
    f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)": "have ended",
    f"{FAILED}Unable to contact slurm controller (connect failure)": "later",
    "sbatch: error: Invalid generic resource (gres) specification": "gres",
    "sbatch: error: fetch_config failed\nsbatch: fatal: Could not establish a configuration source": "login node",
    "sbatch: error: something never seen before": "dry_run=true",
}


@pytest.fixture
def stand_in_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `sbatch` on PATH that prints $SAYS on stderr, $PRINTS on stdout and ends with $CODE."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "sbatch"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\nenv > {tmp_path}/environment\n'
        'printf "%s" "$SAYS" >&2; printf "%s" "$PRINTS"; exit "$CODE"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    script = tmp_path / "job.sbatch"
    script.write_text("#!/bin/bash\n#SBATCH --job-name='a b'\n#SBATCH --nodes=2\n#SBATCH --requeue\ntrue\n")
    return script


def answer(monkeypatch: pytest.MonkeyPatch, prints: str = "", says: str = "", code: int = 0) -> None:
    for name, value in (("PRINTS", prints), ("SAYS", says), ("CODE", str(code))):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("said", "fix"), REFUSALS.items(), ids=REFUSALS.values())
def test_a_refusal_has_slurms_words_and_what_to_type(
    stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch, said: str, fix: str
) -> None:
    answer(monkeypatch, says=said, code=1)
    with pytest.raises(slurm.Refused) as caught:
        slurm.sbatch(stand_in_sbatch)
    error = caught.value
    assert said.splitlines()[-1].split(": ", 2)[-1] in error.found
    assert "sbatch: error" not in error.found
    assert fix in error.fix
    assert error.code == (4 if "contact" in said or "configuration source" in said else 3)


def test_a_configuration_that_is_not_there_is_said_before_any_command_looks_for_it(
    stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of Slurm's commands would look for a minute."""
    monkeypatch.setenv("SLURM_CONF", "/nonexistent")
    with pytest.raises(slurm.NoAnswer, match="SLURM_CONF=/nonexistent does not exist"):
        slurm.queue()
    with pytest.raises(UserError, match="SLURM_CONF=/nonexistent does not exist") as caught:
        slurm.sbatch(stand_in_sbatch)
    assert caught.value.code == 4
    assert not isinstance(caught.value, slurm.Unclear)
    assert not (stand_in_sbatch.parent / "arguments").exists()


@pytest.mark.parametrize(
    ("prints", "says", "code"),
    [
        ("", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", 1),
        ("", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", 1),
        ("", "sbatch: error: slurm_receive_msg: Connection reset by peer", 1),
        ("", "sbatch: error: Batch job submission failed: Slurm communication receive failure", 1),
        ("Submitted, but said so otherwise", "", 0),
    ],
)
def test_a_lost_answer_is_not_a_refusal(
    stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch, prints: str, says: str, code: int
) -> None:
    answer(monkeypatch, prints, says, code)
    with pytest.raises(slurm.Unclear) as caught:
        slurm.sbatch(stand_in_sbatch)
    assert caught.value.code == 4
    assert "may or may not" in caught.value.why


def test_an_sbatch_that_is_killed_may_have_queued_the_job(
    stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch)
    program = stand_in_sbatch.parent / "bin" / "sbatch"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(slurm.Unclear):
        slurm.sbatch(stand_in_sbatch)


@pytest.mark.parametrize(
    ("prints", "job"), [("123\n", "123"), ("123;cluster\n", "123"), ("a banner of the site\n123\n", "123")]
)
def test_the_jobs_id_is_read(stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch, prints: str, job: str) -> None:
    answer(monkeypatch, prints, says="sbatch: a word of the site's own\n")
    assert slurm.sbatch(stand_in_sbatch) == job


def test_the_scripts_options_are_given_on_the_command_line_and_win(
    stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "1\n")
    slurm.sbatch(stand_in_sbatch)
    given = (stand_in_sbatch.parent / "arguments").read_text().splitlines()
    assert given == ["--parsable", "--job-name=a b", "--nodes=2", "--requeue", str(stand_in_sbatch)]


TOKENS = ("HF_TOKEN", "WANDB_API_KEY")


@pytest.mark.parametrize(
    ("typed", "variable", "option", "exported"),
    [
        (None, None, None, None),
        (None, "ALL", None, "ALL"),
        (None, "NONE", None, "HF_TOKEN,WANDB_API_KEY"),
        (None, "nil", None, "HF_TOKEN,WANDB_API_KEY"),
        (None, "PATH,HF_TOKEN", None, "PATH,HF_TOKEN,WANDB_API_KEY"),
        (None, "ALL,MINE=1", None, "ALL,MINE=1"),
        (None, "HF_TOKEN=x,A", None, "HF_TOKEN=x,A,WANDB_API_KEY"),
        ("NONE", "ALL", "HF_TOKEN,WANDB_API_KEY", None),
        ("ALL", "NONE", "ALL", None),
        ("MINE", None, "MINE,HF_TOKEN,WANDB_API_KEY", None),
    ],
)
def test_tokens_reach_the_job_whatever_else_is_exported(
    typed: str | None, variable: str | None, option: str | None, exported: str | None
) -> None:
    options = ["--requeue", *([] if typed is None else [f"--export={typed}"])]
    environ = {} if variable is None else {"SBATCH_EXPORT": variable}
    given, more = slurm.carrying(options, environ, TOKENS)
    assert given == ["--requeue", *([] if option is None else [f"--export={option}"])]
    assert more.get("SBATCH_EXPORT") == exported
    assert slurm.carrying(options, environ, ()) == (options, {} if typed else environ)


def test_an_outer_jobs_variables_do_not_reach_slurms_commands(
    stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "1\n")
    for name in (
        "SLURM_ARRAY_TASK_ID",
        "SLURM_RESTART_COUNT",
        "SQUEUE_STATES",
        "SLURM_TIME_FORMAT",
        "HF_TOKEN",
    ):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", str(stand_in_sbatch))
    slurm.sbatch(stand_in_sbatch)
    seen = dict(
        line.split("=", 1) for line in (stand_in_sbatch.parent / "environment").read_text().splitlines() if "=" in line
    )
    names = {name for name in seen if name.startswith(("SLURM", "SQUEUE"))}
    assert names == {"SLURM_CONF", "SLURM_BITSTR_LEN"}
    assert seen["HF_TOKEN"] == "x", "the job inherits the user's environment"


def test_no_sbatch_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        slurm.require()
    assert "no sbatch on PATH" in caught.value.found
    assert "cluster=local" in caught.value.fix


def test_no_squeue_is_no_answer_and_not_an_empty_queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm.NoAnswer, match="squeue is not on PATH"):
        slurm.queue()
    assert slurm.accounting(["12"]) == {}
    assert slurm.end_time("12") is None


def test_options_are_split_as_a_shell_would() -> None:
    text = f"#!/bin/bash\n#SBATCH --comment={shlex.quote('two words')}\n#SBATCH --nodes=1\n# no option\n"
    assert slurm.script_options(text) == ["--comment=two words", "--nodes=1"]


def test_accounting_is_asked_about_no_more_jobs_than_a_command_line_holds(
    stand_in_sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch)
    program = stand_in_sbatch.parent / "bin" / "sbatch"
    program.rename(program.with_name("sacct"))
    assert slurm.accounting(f"{n}_1" for n in range(10**6, 10**6 + 20_000)) == {}
    given = (stand_in_sbatch.parent / "arguments").read_text().splitlines()
    asked = given[given.index("-j") + 1].split(",")
    assert len(asked) == slurm.MOST_ASKED
    assert asked[-1] == str(10**6 + 19_999), "the newest"


def test_a_command_that_cannot_be_started_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text("not for this machine")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm.NoAnswer, match="squeue"):
        slurm.queue()


def test_the_queue_is_asked_for_hidden_partitions_and_by_the_users_own_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(slurm.client, "run", run)
    monkeypatch.setenv("LOGNAME", "somebody-else")
    slurm.queue(["bob"])
    assert "--all" in asked[0]
    (who,) = [word for word in asked[0] if word.startswith("--user=")]
    assert set(who.removeprefix("--user=").split(",")) == {"bob", pwd.getpwuid(os.getuid()).pw_name}
