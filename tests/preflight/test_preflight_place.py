"""The machine: what Slurm's commands answered (recorded), and what the rules make of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core_case import frozen
from preflight_case import THIRTY, TWELVE, TWELVE_2, said

from nano_exp import slurm
from nano_exp.launch import gather
from nano_exp.nemo_rl import versions
from nano_exp.preflight import answers
from nano_exp.preflight.accounts import start_line
from nano_exp.preflight.answers import Answers, Association, Estimate, Nodes, Qos
from nano_exp.preflight.facts import Facts, FileSystem, file_system
from nano_exp.preflight.place_facts import gpu_gb

# --- parsers, on answers recorded from Slurm 22.05 (the mini cluster) and from the manuals' forms --------------------

SINFO = """\
batch*|up|infinite|1-infinite|2|64|gpu:h100:8|idle|NO|2048000
urgent|up|4:00:00|1-4|1|64+|gpu:a100:4(S:0-1),gpu:v100:2|mix|EXCLUSIVE|512000+
cpu|down|2-00:00:00|1|10|128|(null)|down*|FORCE:4|1
nonsense
"""
CONFIG = """\
Configuration data as of 2026-11-25T02:22:59
AccountingStorageEnforce = associations,qos
MaxArraySize            = 1001
"""


def test_sinfo() -> None:
    assert answers.parse_nodes(SINFO) == (
        Nodes("batch", True, True, None, None, 2, 64, (("h100", 8),), "idle", mib=2048000),
        Nodes("urgent", False, True, 240.0, 4, 1, 64, (("a100", 4), ("v100", 2)), "mix", True, mib=512000),
        Nodes("cpu", False, False, 2880.0, 1, 10, 128, (), "down*", forced=True, mib=1),
    )


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("infinite", None), ("4:00:00", 240.0), ("30:00", 30.0), ("7-00:00:00", 10080.0), ("n/a", None), ("", None)],
)
def test_time_limits(text: str, minutes: float | None) -> None:
    assert answers.parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:h100:8", (("h100", 8),)),
        ("gpu:4", (("", 4),)),
        ("gpu:A100:4(S:0-1)", (("a100", 4),)),
        ("lustre:1,gpu:a100:4,gpu:v100:2", (("a100", 4), ("v100", 2))),
        ("(null)", ()),
        ("mps:100", ()),
    ],
)
def test_gres(text: str, gpus: tuple[tuple[str, int], ...]) -> None:
    assert answers.parse_gpus(text) == gpus


def test_settings_associations_and_qos() -> None:
    assert answers.parse_settings(CONFIG)["MaxArraySize"] == "1001"
    assert answers.parse_associations("research||normal,long|100|\nroot||normal||\n|bad\n") == (
        Association("research", "", ("normal", "long"), 100, None),
        Association("root", "", ("normal",), None, None),
    )
    assert answers.parse_qos("normal||\nshort|01:00:00|20\n") == (Qos("normal", None, None), Qos("short", 60.0, 20))


def test_test_only() -> None:
    good = answers.parse_test_only(
        0, "sbatch: Job 1 to start at 2026-11-25T02:22:59 using 16 processors on nodes mini1 in partition batch\n"
    )
    assert good.refused == "" and good.start is not None
    text = "sbatch: error: invalid partition specified: zz\nallocation failure: Invalid partition name specified\n"
    bad = answers.parse_test_only(1, text)
    assert bad == Estimate("invalid partition specified: zz; Invalid partition name specified", None)
    assert answers.parse_test_only(1, "").refused == "exit code 1"


def test_the_start_in_words() -> None:
    assert start_line(Estimate("", 1000.0), now=990.0) == "Slurm would start it at once (sbatch --test-only)"
    assert "in 2 h 30 min" in start_line(Estimate("", 10000.0), now=1000.0)
    assert start_line(None) == start_line(Estimate("no", None)) == ""


@pytest.mark.parametrize(
    ("kind", "gb"),
    [
        *(("h100", 80), ("a100", 80), ("a100-sxm4-40gb", 40), ("nvidia_a100_80gb_pcie", 80), ("h100_pcie", 80)),
        *(("v100", 32), ("t4", 16), ("rtx_4090", 24), ("", -1), ("mi300", -1)),
    ],
)
def test_the_memory_in_a_gpus_name(kind: str, gb: float) -> None:
    assert gpu_gb(kind, -1) == gb


# --- the rules ------------------------------------------------------------------------------------------------------

H100 = Nodes("batch", True, True, None, None, 2, 64, (("h100", 8),), "idle")
SMALL = replace(H100, partition="small", default=False, minutes=60.0, largest=1, count=1, cpus=12)
ENFORCED = {"MaxArraySize": "1001", "AccountingStorageEnforce": "associations,limits,qos"}
QOS = (Qos("short", 60.0, 20), Qos("normal", None, None))
ASSOCIATIONS = (Association("research", "", ("normal", "short"), 100, None),)


def facts(*nodes: Nodes, new: int = 1, row: tuple[str, ...] = TWELVE, **given: Any) -> Facts:
    """What Slurm said, and what is asked of it."""
    shape = "1 x 8 GPUs, whole nodes"
    told = {"nodes": nodes or (H100, SMALL), "settings": ENFORCED, "associations": ASSOCIATIONS, "qos": QOS}
    told |= {key: given.pop(key) for key in ("test", "settings", "most_mib") if key in given}
    return Facts(
        environ={},
        parameters={"timeout_min": 240, **given},
        answers=Answers(**told),
        new={(shape, row[0].partition("=")[2]): new},
    )


SILENT = (
    *("partition_there", "partition_time", "nodes_fit", "gpu_memory", "account_there", "qos_allows", "submit_limit"),
    *("slurm_accepts", "slurm_there", "node_alone", "node_given", "memory_given"),
)


@pytest.mark.parametrize("rule", SILENT)
def test_a_good_place_is_not_spoken_of(rule: str) -> None:
    for row in (TWELVE, TWELVE_2, THIRTY):
        assert not said(rule, row, facts=facts(partition="batch", account="research", qos="normal"))


A40 = replace(H100, gpus=(("a40", 8),))
BAD = {
    "no such partition": ("partition_there", TWELVE, facts(partition="bach"), "site.partition=batch"),
    "no default partition": ("partition_there", TWELVE, facts(replace(H100, default=False)), "site.partition=batch"),
    "a partition that is down": ("partition_there", TWELVE, facts(replace(H100, up=False)), "until it is up"),
    "too long": ("partition_time", TWELVE, facts(partition="small"), "timeout_min=60"),
    "too many nodes for a job": ("nodes_fit", TWELVE_2, facts(partition="small"), "another cluster="),
    "too few nodes": ("nodes_fit", TWELVE_2, facts(replace(H100, count=1)), "another cluster="),
    "too few GPUs": ("nodes_fit", TWELVE, facts(replace(H100, gpus=(("h100", 4),))), "another cluster="),
    "GPUs of another type, of the site": ("nodes_fit", (*TWELVE, "site.gres=gpu:a100"), facts(), "another cluster="),
    "too few CPUs": (
        "nodes_fit",
        (*TWELVE, "slurm.cpus_per_node=16"),
        facts(partition="small"),
        "slurm.cpus_per_node=12",
    ),
    "GPUs of another type": ("nodes_fit", TWELVE, facts(gres="gpu:a100:8"), "another cluster="),
    "small GPUs": ("gpu_memory", THIRTY, facts(A40), "site.partition="),
    "some small GPUs": ("gpu_memory", THIRTY, facts(H100, A40), "gres=gpu:h100:8"),
    "an account of others": ("account_there", TWELVE, facts(account="reserch"), "site.account=research"),
    "a QOS of others": ("qos_allows", TWELVE, facts(qos="shrt"), "site.qos=short"),
    "too long for the QOS": ("qos_allows", TWELVE, facts(qos="short"), "timeout_min=60"),
    "many jobs": ("submit_limit", TWELVE, facts(new=101), "slurm.max_array=25"),
    "Slurm says no": ("slurm_accepts", TWELVE, facts(test=Estimate("Invalid qos specification", None)), "site.qos="),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_place_is_refused_with_what_to_type(name: str) -> None:
    rule, row, seen, fix = BAD[name]
    (found,) = said(rule, row, facts=seen)
    assert fix in found.fix
    assert all((found.found, found.cause))
    soft = ("a partition that is down", "some small GPUs")
    assert found.severity == ("warning" if name in soft else "error")


def test_a_sweep_above_the_limit_goes_out_in_arrays_below_it() -> None:
    (found,) = said("submit_limit", (*TWELVE, "slurm.max_array=60"), facts=facts(new=101))
    assert found.severity == "warning" and "sends the rest" in found.fix and "100 jobs" in found.cause
    site = facts(new=101, settings={**ENFORCED, "MaxArraySize": "60"})
    assert [f.severity for f in said("submit_limit", TWELVE, facts=site)] == ["warning"]


def test_a_checkout_of_a_branch_is_not_taken_for_the_release_of_its_number(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    head = tmp_path / ".git" / "HEAD"
    row = (*TWELVE, f"site.checkout={tmp_path}")
    released = versions.known("v0.7.0")
    assert released is not None and released.commit is not None
    for commit, told in ((released.commit, 0), ("f" * 40, 1)):
        head.write_text(f"{commit}\n")
        found = said("checkout_is_release", row, facts=facts())
        assert [f.severity for f in found] == ["warning"] * told, commit
    assert "ffffffffffff" in found[0].found and "git -C" in found[0].fix


def test_what_passes_is_only_a_warning() -> None:
    (found,) = said("slurm_accepts", TWELVE, facts=facts(test=Estimate("Requested nodes are busy", None)))
    assert found.severity == "warning"


def test_without_accounting_any_account_is_good() -> None:
    loose = facts(account="any", qos="any", settings={"AccountingStorageEnforce": "none", "MaxArraySize": "1001"})
    assert not said("account_there", TWELVE, facts=loose)
    assert not said("qos_allows", TWELVE, facts=loose)


def test_where_slurm_does_not_answer_nothing_is_said_and_it_is_told() -> None:
    silent = Facts(environ={}, answers=Answers(silent=("partitions (Unable to contact)",)))
    for rule, row, _, _ in BAD.values():
        assert not said(rule, row, facts=silent)


def test_this_machine_is_not_asked_about_slurm() -> None:
    for rule, row, seen, _ in BAD.values():
        if rule != "gpu_memory":
            assert not said(rule, row, ("slurm.where=local",), facts=seen)


def test_a_folder_that_only_this_host_sees_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = facts()
    types = {"/launch/results": "ext4", "/shared/hf": "lustre"}
    seen.file_system = lambda path: FileSystem("/", types[path])  # type: ignore[assignment]
    assert [f.found for f in said("shared_folders", TWELVE, ("site.hf_home=/shared/hf",), facts=seen)] == [
        "run.results=/launch/results"
    ]


def test_the_file_system_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(f"/dev/a / ext4 rw 0 0\nnas:/x {tmp_path} nfs4 rw 0 0\n")
    found = file_system(str(tmp_path / "not" / "yet"), str(tmp_path / "mounts"))
    assert found is not None and found.type == "nfs4"
    assert file_system("/", str(tmp_path / "none")) is None


def test_checkpoints_want_room() -> None:
    seen = facts(new=4)
    seen.disk_free = lambda path: 600 * 10**9  # type: ignore[assignment]
    (found,) = said("disk_free", TWELVE, facts=seen)
    assert "3 checkpoints of about 172 GB" in found.cause
    assert "4 runs 2.1 TB" in found.cause
    seen.disk_free = lambda path: 10**14  # type: ignore[assignment]
    assert not said("disk_free", TWELVE, facts=seen)
    assert not said("disk_free", TWELVE, ("checkpointing.enabled=false",), facts=facts(new=4))
    seen.disk_free = lambda path: 100 * 10**9 if path == "/small" else 10**14  # type: ignore[assignment]
    seen.file_system = lambda path: FileSystem(path, "ext4")  # type: ignore[assignment]
    (found,) = said("disk_free", TWELVE, ("logger.log_dir=/small", "grpo.max_num_steps=1500"), facts=seen)
    assert "a run logs up to 33 GB of rollouts" in found.cause and "4 runs 131 GB" in found.cause


def test_a_run_that_leaves_gpus_of_a_shared_node_asks_for_the_node_alone() -> None:
    """Two single-node runs on one node are two Rays, and NeMo RL stops where it sees two."""
    four = ("cluster.gpus_per_node=4",)
    (found,) = said("node_alone", TWELVE, four, facts=facts())
    assert found.severity == "error" and found.fix.startswith("site.allocation=node")
    assert "would have them alone, and GPUs would idle" in found.cause
    (found,) = said("node_alone", TWELVE, (*four, SHARE), facts=facts())
    assert "second Ray" in found.cause and found.fix.startswith("site.allocation=node")
    assert not said("node_alone", TWELVE, facts=facts()), "all GPUs of its nodes"
    assert not said("node_alone", TWELVE, (*four, "site.allocation=node"), facts=facts())
    assert not said("node_alone", TWELVE, (*four, SHARE, "engine.ray_address=10.0.0.1:6379"), facts=facts())
    assert not said("node_alone", TWELVE_2, (*four, SHARE), facts=facts()), (
        "several nodes have a Ray of their own ports"
    )
    assert not said("node_alone", TWELVE, four, facts=facts(partition="urgent")), "OverSubscribe=EXCLUSIVE"
    typed = facts(additional_parameters={"exclusive": True})
    assert not said("node_alone", TWELVE, four, facts=typed)


SHARE = "site.allocation=share"
#: Whole nodes and host memory: the partition's nodes, its limit, the run's settings -> the rule that speaks, its fix.
FORCED = replace(H100, forced=True)
KNOWN = replace(H100, mib=2048000)
GIVEN: dict[str, tuple[Nodes, dict[str, int], tuple[str, ...], dict[str, Any], str, str]] = {
    "whole nodes": (KNOWN, {}, (), {}, "", ""),
    "jobs share whatever they ask": (FORCED, {}, (), {}, "node_given", SHARE),
    "and are told to": (FORCED, {}, (SHARE,), {}, "", ""),
    "or said so themselves": (FORCED, {}, (), {"additional_parameters": {"exclusive": "user"}}, "", ""),
    "less than all memory": (KNOWN, {"batch": 1945600}, (), {}, "memory_given", "site.memory_gb=1900"),
    "of which less is asked": (KNOWN, {"batch": 1945600}, ("site.memory_gb=1900",), {}, "", ""),
    "or more": (KNOWN, {"batch": 1945600}, ("site.memory_gb=1950",), {}, "memory_given", "site.memory_gb=1900"),
    "more than there is": (KNOWN, {}, ("site.memory_gb=2001",), {}, "memory_given", "site.memory_gb=2000"),
    "in a share too": (KNOWN, {}, (SHARE, "site.memory_gb=2001"), {}, "memory_given", "site.memory_gb=2000"),
    "another partition's limit": (KNOWN, {"other": 10}, (), {}, "", ""),
    "memory that Slurm does not know": (replace(H100, mib=1), {}, ("site.memory_gb=100",), {}, "", ""),
    "memory typed": (KNOWN, {"batch": 1945600}, (), {"mem_gb": 100}, "", ""),
}


@pytest.mark.parametrize("name", GIVEN)
def test_whole_nodes_and_memory_are_given(name: str) -> None:
    nodes, most, settings, parameters, rule, fix = GIVEN[name]
    seen = facts(nodes, most_mib=most, **parameters)
    found = {one: said(one, TWELVE, settings, facts=seen) for one in ("node_given", "memory_given")}
    assert [one for one, list_of in found.items() if list_of] == [rule] * bool(rule)
    if rule:
        assert found[rule][0].fix.startswith(fix) and found[rule][0].severity == "error"
        cured = found[rule][0].fix.split(",")[0]
        assert not said(rule, TWELVE, (*settings, cured), facts=seen)


def test_memory_limits_of_partitions() -> None:
    text = (
        "PartitionName=gpu AllowGroups=ALL MaxMemPerNode=1900000 OverSubscribe=NO\n"
        "PartitionName=cpu MaxMemPerNode=UNLIMITED\n"
    )
    assert answers.parse_most_mib(text) == {"gpu": 1900000}


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("Memory specification can not be satisfied", "site.memory_gb="),
        ("Requested GRES option unsupported by configured SelectType plugin", "site.gres="),
        ("Invalid generic resource (gres) specification", "site.gres="),
        ("--exclusive is not permitted in this partition", "site.allocation=share"),
        ("Time limit specification required, but not provided", "hydra.launcher.timeout_min="),
        ("Invalid account or account/partition combination specified", "site.account="),
    ],
)
def test_what_slurm_refuses_is_answered_with_the_key_that_cures_it(words: str, fix: str) -> None:
    assert slurm.remedy(words)[1].startswith(fix)


# --- asking ---------------------------------------------------------------------------------------------------------

TOOLS = {
    "sinfo": f"cat <<'E'\n{SINFO}E",
    "scontrol": f"cat <<'E'\n{CONFIG}E",
    "sacctmgr": 'case "$*" in *assoc*) echo "research||normal||";; *) echo "normal||";; esac',
    "sbatch": 'echo "sbatch: Job 1 to start at 2026-11-25T02:22:59" >&2',
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for Slurm's commands that print what was recorded."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in TOOLS.items():
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {folder}/asked\n{text}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_every_question_is_asked_once_for_the_launch(tools: Path, tmp_path: Path) -> None:
    wanted = [frozen(tmp_path, *row) for row in (TWELVE, TWELVE_2)]
    found = gather.facts(wanted, {"partition": "batch", "timeout_min": 240}, submitting=True).answers
    assert found is not None
    assert found.silent == ()
    assert found.nodes and found.settings and found.associations and found.qos and found.test
    lines = sorted((tools / "asked").read_text().splitlines())
    assert [line.split()[0] for line in lines] == ["sacctmgr", "sacctmgr", "sbatch", "scontrol", "scontrol", "sinfo"]
    asked = lines[2].split()
    assert {"--test-only", "--nodes=2", "--gpus-per-node=8", "--partition=batch", "--time=240"} <= set(asked)
    assert not any(word.startswith(("--output", "--array", "--job-name")) for word in asked)


def test_a_dead_controller_is_told_and_stops_nothing(tools: Path, tmp_path: Path) -> None:
    for name in TOOLS:
        (tools / name).write_text(
            "#!/bin/sh\necho 'slurm_load: Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
        )
    found = gather.facts([frozen(tmp_path, *TWELVE)], {}, submitting=True).answers
    assert found is not None
    assert found.nodes is None and found.test is None
    assert all("Unable to contact" in line for line in found.silent)


def test_a_question_without_an_answer_in_time(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tools / "sinfo").write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(gather, "TIMEOUT_S", 0.5)
    found = gather.facts([frozen(tmp_path, *TWELVE)], {}, submitting=True).answers
    assert found is not None and found.nodes is None and found.settings
    assert found.silent == ("partitions (sinfo gave no answer within 0 s)",)


def test_runs_that_slurm_knows_already_are_not_asked_about(tools: Path, tmp_path: Path) -> None:
    wanted = frozen(tmp_path, *TWELVE)
    (tmp_path / "results" / wanted.name / f"r{wanted.digest[:10]}").mkdir(parents=True)
    assert gather.facts([wanted], {}, submitting=True).answers is None
    assert not (tools / "asked").exists()


def test_an_allocation_that_is_there_is_not_asked_for(tools: Path, tmp_path: Path) -> None:
    assert gather.facts([frozen(tmp_path, *TWELVE)], {}, submitting=True, inside=True).answers is None


def test_words_of_slurms_commands_lose_their_prefixes() -> None:
    assert slurm.words("sinfo: error: a\nsacctmgr: fatal: b\nsbatch: c\n") == "a; b; c"
    assert slurm.out_of_reach("Unable to contact slurm controller (connect failure)")
    assert not slurm.out_of_reach("Invalid account or account/partition combination specified")
