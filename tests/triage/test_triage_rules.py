"""What holds for any log: never an exception, order, other processes' noise, speed; and the parts one by one."""

from __future__ import annotations

import random
import re
import time
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_triage_corpus import CASES, evidence, expected, well_formed

from nano_exp import files
from nano_exp.triage import Evidence, SlurmRecord, causes, diagnose, remedies
from nano_exp.triage.loglines import Stream, parse
from nano_exp.triage.signs import FINAL_SIGNS, LINE_SIGNS, Reading, line_signs
from nano_exp.triage.slurm_record import expand_nodes
from nano_exp.triage.tracebacks import final
from nano_exp.triage.vocabulary import FLAGS, TABLE, Fault

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
FRAME = 'Traceback (most recent call last):\n  File "/opt/nemo-rl/x.py", line 3, in train\n    y = f(x)\n'

# --- any text -------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *sorted({needle for sign in line_signs() for needle in sign.needles}),
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in <module>',
        "ray.exceptions.RayTaskError(ValueError): ray::A.b() (pid=1, ip=10.0.0.1, repr=A[rank=1])",
        "The above exception was the direct cause of the following exception:",
        "AssertionError: x",
        "ValidationError: 1 validation error for MasterConfig",
        "(raylet, ip=1.2.3.4)",
        "[rank3]:[E1123 10:20:03.4 ProcessGroupNCCL.cpp:607]",
        "[rank99999999999999999]: ",
        "(W[rank=5] pid=1, ip=2.2.2.2)",
        "ERROR 99-99 99:99:99 [a.py:1]",
        "slurmstepd: error: *** JOB 1 ON a CANCELLED AT 2025-01-01T00:00:00 DUE TO TIME LIMIT ***",
        "• Loss: nan",
        "===== Step 1/2 =====",
        "📊 Training Results:",
        "\x1b[36m",
        "\r",
        "\n",
        ": ",
        "'",
        "(12)",
        "٣",
    ]
)
LOGS = st.one_of(st.text(), st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=60).map("".join))
RECORDS = st.one_of(
    st.none(),
    st.builds(SlurmRecord.of, st.sampled_from(["TIMEOUT", "CANCELLED by 0", "NODE_FAIL", "?"]), *[st.text()] * 3),
)
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.dictionaries(st.sampled_from(["policy", "megatron_cfg", "enabled", "optimizer", "grpo"]), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    LOGS,
    LOGS,
    st.dictionaries(st.text(max_size=5), LOGS, max_size=2),
    st.one_of(st.none(), st.integers(-300, 300)),
    RECORDS,
    st.dictionaries(st.sampled_from(["policy", "grpo", "cluster", "optimizer", "env"]), TREES),
    st.sampled_from(["", "SIGTERM", "SIGINT", "?"]),
)
def test_never_raises(stdout, stderr, node_logs, code, record, config, stopped_by) -> None:  # type: ignore[no-untyped-def]
    well_formed(diagnose(Evidence(stdout, stderr, node_logs, code, record, config, stopped_by)))


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_plain_text_is_unknown_or_nothing(text: str) -> None:
    assert diagnose(Evidence(stderr=text, exit_code=1)).cause == "unknown"
    assert diagnose(Evidence(stderr=text, exit_code=0)).cause == "none"


@pytest.mark.parametrize("text", ["", "\n", "\x00\x00", "a" * 3_000_000, "(" * 10_000, "(pid=" * 5_000, "'" * 9_000])
def test_odd_text(text: str) -> None:
    assert diagnose(Evidence(stderr=text, stdout=text, exit_code=1)).cause == "unknown"


def test_an_engine_that_ends_with_our_own_three_parts_is_believed() -> None:
    text = "loading\nerror: engine.device=cuda\n  why: no GPU here\n  fix: engine.device=cpu\n"
    found = diagnose(Evidence(stderr=text, exit_code=2))
    assert (found.cause, found.remedy, found.fault) == ("config_refused", "engine.device=cpu", "config")
    assert "engine.device=cuda: no GPU here" in found.title
    assert diagnose(Evidence(stderr=text.replace("  why: ", "  "), exit_code=2)).cause == "unknown"


# --- the same log, differently --------------------------------------------------------------------------------------


def interleaved(text: str, seed: int) -> str:
    """With lines of other processes in between, as Ray forwards them."""
    noise = [
        "\x1b[36m(VllmGenerationWorker pid=999, ip=10.0.0.9)\x1b[0m INFO 11-23 09:00:00 [loggers.py:12] Running: 3",
        "(MegatronPolicyWorker[rank=77] pid=998, ip=10.0.0.9)   warnings.warn(",
        "(NemoGym pid=997, ip=10.0.0.9) RuntimeError: a tool said no",
        '(NemoGym pid=997, ip=10.0.0.9)   File "/tmp/tool.py", line 3, in f',
        "",
    ]
    chance = random.Random(seed)
    lines = []
    for line in text.split("\n"):
        if chance.random() < 0.3:
            lines.append(chance.choice(noise))
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("name", CASES)
def test_other_processes_lines_change_nothing(name: str) -> None:
    before = evidence(name)
    # Words that a message's continuation lines end at are not put into the driver's own messages.
    after = diagnose(evidence(name, stderr=interleaved(before.stderr, 3).replace("\n\n", "\n"), stdout=before.stdout))
    found = diagnose(evidence(name, stderr=before.stderr.replace("\n\n", "\n")))
    assert (after.cause, after.phase, after.rank, after.bad_node) == (
        found.cause,
        found.phase,
        found.rank,
        found.bad_node,
    )


@pytest.mark.parametrize("name", CASES)
def test_stdout_and_stderr_in_one_file(name: str) -> None:
    whole = evidence(name)
    assert (
        diagnose(evidence(name, stdout=whole.stdout + "\n" + whole.stderr, stderr="")).cause == expected(name)["cause"]
    )


@pytest.mark.parametrize("name", CASES)
def test_windows_line_ends_and_no_colours(name: str) -> None:
    whole = evidence(name)
    plain = whole.stderr.replace("\x1b[36m", "").replace("\x1b[0m", "").replace("\n", "\r\n")
    assert diagnose(evidence(name, stderr=plain)).cause == expected(name)["cause"]


def test_many_megabytes_take_seconds() -> None:
    whole = evidence("cuda_oom-1")
    filler = (whole.stdout.partition("▶ Training policy")[0] + "\n") * 4
    stdout = filler * (12_000_000 // len(filler)) + whole.stdout
    began = time.process_time()
    assert diagnose(evidence("cuda_oom-1", stdout=stdout)).cause == "cuda_oom"
    assert time.process_time() - began < 15  # one second where nothing else runs


# --- order ----------------------------------------------------------------------------------------------------------


def test_first_fault_wins_in_one_log() -> None:
    disk = FRAME + "OSError: [Errno 28] No space left on device\n"
    oom = FRAME + OOM + "\n"
    assert diagnose(Evidence(stderr=disk + oom, exit_code=1)).cause == "disk_full"
    assert diagnose(Evidence(stderr=oom + disk, exit_code=1)).cause == "cuda_oom"


def test_two_logs_are_ordered_by_their_clocks() -> None:
    def gpu(clock: str) -> str:
        return f"2025-11-23 {clock} gpu08 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n"

    err = f"2025-11-23 10:00:00,000\tINFO worker.py:1 -- x\n{FRAME}{OOM}\n"
    early = diagnose(Evidence(stderr=err, node_logs={"gpu08": gpu("09:59:00")}, exit_code=1))
    late = diagnose(Evidence(stderr=err, node_logs={"gpu08": gpu("10:03:00")}, exit_code=1))
    assert (early.cause, early.bad_node) == ("gpu_lost", "gpu08")
    assert late.cause == "cuda_oom"


def test_slurm_says_time_limit_but_a_gpu_was_lost_before() -> None:
    err = FRAME + "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered\n"
    record = SlurmRecord.of("TIMEOUT", "0:15", "gpu07")
    found = diagnose(Evidence(stderr=err, exit_code=143, slurm=record, stopped_by="SIGTERM"))
    assert (found.cause, found.bad_node) == ("gpu_ecc", "gpu07")
    cancelled = diagnose(Evidence(stderr=err, exit_code=143, slurm=SlurmRecord.of("CANCELLED by 7", "0:15", "gpu07")))
    assert (cancelled.cause, cancelled.fault) == ("cancelled", "user")


def test_results_after_it_show_that_it_was_survived_but_not_in_async_training() -> None:
    after = "📊 Training Results:\n  • Loss: 0.1\n"
    out = FRAME + OOM + "\n" + after
    assert diagnose(Evidence(stdout=out, exit_code=1)).cause == "unknown"
    config = {"grpo": {"async_grpo": {"enabled": True}}}
    assert diagnose(Evidence(stdout=out, exit_code=1, config=config)).cause == "cuda_oom"


# --- secrets --------------------------------------------------------------------------------------------------------


def test_no_secret_leaves_the_log() -> None:
    token = "hf_" + "abcdefghijklmnopqrstuvwxyz0123"
    err = f'{FRAME}RuntimeError: cannot log in with {token} at "x"\n'
    for text in (err, f"{FRAME}OSError: [Errno 28] No space left on device: '/x/{token}'\n"):
        assert token not in str(diagnose(Evidence(stderr=text, exit_code=1)).as_dict())


# --- the vocabulary -------------------------------------------------------------------------------------------------


def test_every_cause_has_one_remedy_a_row_or_a_function() -> None:
    rows = {name for name, cause in causes().items() if cause.remedy is not None}
    assert rows | set(remedies.REMEDIES) == set(causes())
    assert not rows & set(remedies.REMEDIES)
    for name in causes():
        said = remedies.of(name, {}, Reading(), "unknown")
        assert isinstance(said, str) and "{" not in said, name


def test_every_sign_is_one_of_a_known_cause() -> None:
    assert {sign.cause for sign in (*LINE_SIGNS, *FINAL_SIGNS)} <= set(causes())


def test_every_row_of_the_table_says_what_it_can_and_nothing_else() -> None:
    for name, row in files.read_yaml(TABLE).items():
        assert set(row) <= {"title", "fault", "flags", "remedy", "signs"}, name
        assert row["fault"] in get_args(Fault) and set(row.get("flags", ())) <= set(FLAGS), name
        for sign in row.get("signs", ()):
            found = re.compile(sign["pattern"])
            sign.get("detail", "").format(*[""] * found.groups, **dict.fromkeys(found.groupindex, ""))


def test_a_template_says_what_the_sign_read_or_words_in_its_place() -> None:
    assert remedies.of("permission", {}, Reading(subject="/x"), "unknown").startswith("`ls -ld /x` on")
    assert remedies.of("permission", {}, Reading(), "unknown").startswith("`ls -ld PATH` on")
    assert remedies.of("unknown", {"run": {"name": "n", "id": "r1"}}, Reading(), "unknown").endswith(
        "logs n/r1 --stream err`"
    )


def test_only_infrastructure_blames_a_node() -> None:
    assert all(cause.fault == "infrastructure" for cause in causes().values() if cause.blames_node)
    for name in (
        "cuda_oom",
        "config_refused",
        "nan",
        "cancelled",
        "disk_full",
        "unknown",
        "tool_parser",
        "import_error",
    ):
        assert causes()[name].fault != "infrastructure"


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text", "who", "ip", "rank", "level"),
    [
        ("plain", "plain", "", "", None, ""),
        ("\x1b[36m(Worker[rank=3] pid=12, ip=10.0.0.3)\x1b[0m   x", "  x", "Worker", "10.0.0.3", 3, ""),
        ("(raylet, ip=10.0.0.4) x", "x", "raylet", "10.0.0.4", None, ""),
        ("(EngineCore_DP0 pid=9) ERROR 11-23 10:20:03 [core.py:842]   x", "  x", "EngineCore_DP0", "", None, "ERROR"),
        ("(V pid=1, ip=1.1.1.1) (E pid=2) INFO 11-23 10:20:03 [a.py:1] x", "x", "V", "1.1.1.1", None, "INFO"),
        ("[rank7]:[E816 01:45:40.183 ProcessGroupNCCL.cpp:607] x", "x", "", "", 7, "ERROR"),
        ("[rank2]:   File", "  File", "rank2", "", 2, ""),
        ("3: (ActorWorker(actor-1) pid=5, ip=1.2.3.4) x", "x", "ActorWorker(actor-1)", "1.2.3.4", None, ""),
        ("2025-11-23 10:20:03,241\tERROR worker.py:421 -- x", "x", "", "", None, "ERROR"),
        ("[2025-11-23 10:20:03,206 E 393 393] (raylet) node_manager.cc:32: x", "x", "", "", None, "ERROR"),
        ("(W pid=1) x [repeated 7x across cluster] (Ray deduplicates logs)", "x", "W", "", None, ""),
        (" 10%|#\r 50%|##\rdone", "done", "", "", None, ""),
    ],
)  # fmt: skip
def test_prefixes(raw: str, text: str, who: str, ip: str, rank: int | None, level: str) -> None:
    line = parse(0, raw)
    assert (line.text, line.who, line.ip, line.rank, line.level) == (text, who, ip, rank, level)


def test_clocks_of_all_kinds_agree() -> None:
    lines = [
        "ERROR 11-23 10:20:03 [a.py:1] x",
        "2025-11-23 10:20:03,241\tERROR worker.py:421 -- x",
        "[rank0]:[E1123 10:20:03.4 P.cpp:1] x",
        "[2025-11-23 10:20:03,206 E 1 1] (raylet) x",
        "slurmstepd: error: *** STEP 1.0 ON a CANCELLED AT 2025-11-23T10:20:03 ***",
    ]
    assert len({parse(0, line).time for line in lines}) == 1
    assert parse(0, "[rank0]:[E904 10:20:03.4 P.cpp:1] x").time == parse(0, "ERROR 09-04 10:20:03 [a:1] x").time


# --- tracebacks -----------------------------------------------------------------------------------------------------


def raised(text: str):  # type: ignore[no-untyped-def]
    stream = Stream("stderr", text)
    return final(stream, [n for n, line in enumerate(stream.raw) if line.startswith("Traceback")])


def test_the_uncaught_one_wins_over_what_comes_at_exit() -> None:
    main = 'Traceback (most recent call last):\n  File "run.py", line 1, in <module>\n    main()\nKeyError: 3\n'
    at_exit = "Exception ignored in atexit callback\n" + FRAME + "OSError: x\n"
    assert raised(main + at_exit).text == "KeyError: 3"


DELETED = """Exception ignored in: <function Policy.__del__ at 0x7f11ac2d5c60>
Traceback (most recent call last):
  File "/opt/nemo-rl/nemo_rl/models/policy/lm_policy.py", line 990, in __del__
    self.worker_group.shutdown(cleanup_method="shutdown")
  File "/usr/lib/python3.12/subprocess.py", line 1885, in _execute_child
    self.pid = _fork_exec(
RuntimeError: preexec_fn not supported at interpreter shutdown
"""
ATEXIT = "Error in atexit._run_exitfuncs:\n" + FRAME + "OSError: [Errno 28] No space left on device: '/x'\n"


@pytest.mark.parametrize("last", [DELETED, DELETED.partition("\n")[2], ATEXIT])
def test_what_is_raised_at_exit_is_never_the_cause(last: str) -> None:
    printed = FRAME + "LookupError: nothing there\n"  # caught and printed: the program then exits by itself
    found = diagnose(Evidence(stderr=printed + "\n" + last, exit_code=1))
    assert (found.cause, found.lines[0]) == ("unknown", "LookupError: nothing there")
    alone = diagnose(Evidence(stderr="the end\n" + last, exit_code=3))
    assert alone.cause == "unknown" and "exit code 3" in alone.title


def test_a_chain_is_shown_from_its_root() -> None:
    chain = (
        FRAME
        + "FileNotFoundError: [Errno 2] No such file or directory: '/data/x.jsonl'\n"
        + "\nThe above exception was the direct cause of the following exception:\n\n"
        + FRAME
        + "RuntimeError: the data set cannot be made\n"
        + "\nDuring handling of the above exception, another exception occurred:\n\n"
        + FRAME
        + "SetupError: setup failed\n"
    )
    found = diagnose(Evidence(stderr=chain, exit_code=1))
    assert (found.cause, found.lines[0]) == (
        "data_missing",
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/x.jsonl'",
    )
    unknown = diagnose(Evidence(stderr=chain.replace("FileNotFoundError", "LookupError"), exit_code=1))
    assert unknown.cause == "unknown" and unknown.title.endswith("(then SetupError: setup failed)")
    assert unknown.lines[0].startswith("LookupError")


def test_noise_colours_and_workers_prefixes_are_not_shown() -> None:
    noise = "\x1b[36m(pid=9)\x1b[0m Error fetching metrics from 10.0.0.3:-1: Connection refused\n" * 9
    said = "\x1b[36m(Worker[rank=1] pid=7, ip=10.0.0.3)\x1b[0m the last words\n"
    assert diagnose(Evidence(stderr=said + noise, exit_code=3)).lines == ("the last words",)


def test_messages_of_several_lines_end_where_they_end() -> None:
    error = raised(FRAME + "ValueError: a\nb\nc\n\nd\n")
    assert error.message == "a\nb\nc"


def test_a_traceback_without_its_end_is_none() -> None:
    assert raised(FRAME) is None


# --- Slurm ----------------------------------------------------------------------------------------------------------


def test_record_from_sacct() -> None:
    record = SlurmRecord.of("CANCELLED by 1001", "0:9", "gpu[07-08,11]", "None")
    assert (record.state, record.by, record.signal, record.reason) == ("CANCELLED", "1001", 9, "")
    assert record.nodes == ("gpu07", "gpu08", "gpu11")
    assert SlurmRecord.of("CANCELLED+").state == "CANCELLED"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("None assigned", ()),
        ("a", ("a",)),
        ("a,b[1-3]", ("a", "b1", "b2", "b3")),
        ("r[1-2]n[08-10]", ("r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10")),
        ("x[001,3]-ib", ("x001-ib", "x3-ib")),
        ("[", ()),
        ("a[3-1]", ()),
    ],
)
def test_lists_of_nodes(text: str, names: tuple[str, ...]) -> None:
    assert expand_nodes(text) == names


def test_a_huge_list_is_cut() -> None:
    assert len(expand_nodes("a[1-999999999][1-999999999]")) <= 4096
