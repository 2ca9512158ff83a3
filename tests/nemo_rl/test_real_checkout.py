"""The real NeMo RL on this CPU: it accepts every published row as rendered, and refuses what preflight refuses.

Runs where NANO_EXP_NEMO_RL names a checkout (v0.5.0, v0.6.0, v0.7.0 or main's commit); needs `pip install -e '.[dev]'`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "preflight"))

import test_preflight_cluster  # noqa: E402
import test_preflight_driver  # noqa: E402
import test_preflight_keys  # noqa: E402
import test_preflight_late  # noqa: E402
import test_preflight_megatron  # noqa: E402
import test_preflight_policy  # noqa: E402
import test_preflight_vllm  # noqa: E402
from preflight_case import ROWS, Case, base, config, said, view  # noqa: E402

from nano_exp import files  # noqa: E402
from nano_exp.errors import UserError  # noqa: E402
from nano_exp.nemo_rl import versions  # noqa: E402
from nano_exp.nemo_rl.checkout import read_checkout  # noqa: E402
from nano_exp.nemo_rl.versions import order  # noqa: E402
from nano_exp.preflight import RULES  # noqa: E402
from nano_exp.preflight.run import findings  # noqa: E402
from nano_exp.store.run_config import engine_config  # noqa: E402

CHECKOUT = os.environ.get("NANO_EXP_NEMO_RL", "")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="NANO_EXP_NEMO_RL names no NeMo RL checkout")

#: The stage of upstream.py that refuses what a rule refuses. The other rules' upstream code needs a GPU or a whole run.
STAGE = {
    **dict.fromkeys(
        ("batch_multiplier", "prompts_per_dataloader", "validation_data", "force_on_policy_batch"), "setup"
    ),
    **dict.fromkeys(("training_gpus", "one_node_split", "several_nodes_split"), "setup"),
    **dict.fromkeys(("gym_needs_server", "penalty_without_reference"), "setup"),
    **dict.fromkeys(("one_backend", "layout_divides_gpus", "equal_micro_batches", "dynamic_batching"), "policy"),
    **dict.fromkeys(("dtensor_v1_limits", "draft_model"), "policy"),
    **dict.fromkeys(("engines_divide_gpus", "pipeline_needs_async", "expert_engines", "sampling_range"), "vllm"),
    **dict.fromkeys(("whole_global_batches", "batches_divide_ranks", "whole_micro_batches"), "batches"),
    **dict.fromkeys(("context_parallel_packs", "whole_optimizer_offload", "chunked_log_probabilities"), "megatron"),
    **dict.fromkeys(("value_type", "required_keys"), "types"),
    "async_grpo": "async",
    "packing_alignment": "packing",
}
#: What pydantic takes for the declared type: preflight refuses it, since two spellings would be two runs.
TAKEN = ("grpo.num_prompts_per_step=true", "checkpointing.enabled=1")
#: What the script refuses in its main(), which no stage calls.
IN_MAIN = ("grpo.use_dynamic_sampling", "grpo.reward_scaling", "grpo.reward_shaping", "data.use_multiple_dataloader")
#: Before this version refused elsewhere (the training loop, vLLM itself), or by a key of another name.
LATER = {
    "penalty_without_reference": (0, 7, 0),
    **dict.fromkeys(("force_on_policy_batch", "sampling_range", "training_gpus"), (0, 6, 0)),
}
MODULES = (
    *(test_preflight_driver, test_preflight_cluster, test_preflight_policy, test_preflight_vllm, test_preflight_late),
    *(test_preflight_megatron, test_preflight_keys),
)


@cache
def option() -> str:
    """Of nemo_rl=, by the checkout's commit, else by what it calls itself."""
    said = read_checkout(Path(CHECKOUT))
    assert said.version, f"{CHECKOUT} does not say which NeMo RL it is"
    by_commit = {files.read_yaml(versions.FOLDER / f"{name}.yaml")["commit"]: name for name in versions.options()}
    return by_commit.get(said.commit) or versions.option(said.version)


def version() -> str:
    return versions.version_of(option())


def filled(made: dict[str, Any]) -> dict[str, Any]:
    """What the run's folder and the attempt fill in."""
    made["logger"]["log_dir"] = made["checkpointing"]["checkpoint_dir"] = "/run"
    if isinstance(made["logger"].get("wandb"), dict):
        made["logger"]["wandb"]["name"] = "a run"
    generation = made["policy"]["generation"] or {}
    for name in ("temperature", "top_p", "top_k"):  # a validation's follow, by interpolations of main's recipes
        if f"val_{name}" in generation:
            generation[f"val_{name}"] = generation.get(name)
    cfg = generation.get("vllm_cfg") or {}
    if "tool_parser_plugin" in cfg:
        cfg["tool_parser_plugin"] = "/a/parser.py"
    return made


def rows() -> list[tuple[str, ...]]:
    found = []
    for row in ROWS:
        try:
            base((f"nemo_rl={option()}", *row))
        except UserError:  # no such recipe at this version
            continue
        found.append(row)
    return found


@cache
def cases() -> list[Case]:
    every = [case for module in MODULES for case in module.CASES]
    parsed = order(version()) if CHECKOUT else ()
    here = [case for case in every if case.rule in STAGE and case.version == "v0.7.0" and case.bad[0] not in TAKEN]
    here = [case for case in here if case.rule != "async_grpo" or not case.bad[-1].startswith(IN_MAIN)]
    here = [case for case in here if parsed >= LATER.get(case.rule, ()) and case.row in rows()]
    if parsed < (0, 7, 0):  # types are checked from v0.7.0 on, and the worker's settings had no functions of their own
        here = [case for case in here if STAGE[case.rule] not in ("types", "megatron", "packing")]
    here = [case for case in here if said(case.rule, (f"nemo_rl={option()}", *case.row), case.bad, version())]
    return here


def request(case: Case, overrides: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
    made = config((f"nemo_rl={option()}", *case.row), overrides, version())
    return [STAGE[case.rule]], filled(engine_config(made))


@cache
def verdicts() -> dict[str, dict[str, str]]:
    """All questions in one process: importing NeMo RL takes longest."""
    wanted: dict[str, Any] = {}
    for row in rows():
        wanted[" ".join(row)] = ([], filled(engine_config(config((f"nemo_rl={option()}", *row), (), version()))))
    for number, case in enumerate(cases()):
        wanted[f"bad {number}"] = request(case, case.bad)
        wanted[f"cured {number}"] = request(case, (*case.bad, *case.cure))
    done = subprocess.run(
        [sys.executable, str(HERE / "upstream.py"), CHECKOUT],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        env={**os.environ, "TORCH_CUDA_ARCH_LIST": "9.0", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert isinstance(found, dict)
    return found


def test_it_accepts_every_published_row_as_rendered() -> None:
    assert rows()
    for row in rows():
        refused = {stage: why for stage, why in verdicts()[" ".join(row)].items() if why and "absent:" not in why}
        assert not refused, row
        assert verdicts()[" ".join(row)]["types"] == verdicts()[" ".join(row)]["setup"] == ""


def test_it_refuses_what_preflight_refuses() -> None:
    accepted = [str(case) for number, case in enumerate(cases()) if not any(verdicts()[f"bad {number}"].values())]
    assert not accepted, f"{len(accepted)} of {len(cases())}"


def test_it_accepts_what_preflights_remedies_cure() -> None:
    refused, looked_at = {}, 0
    for number, case in enumerate(cases()):
        seen = view((f"nemo_rl={option()}", *case.row), (*case.bad, *case.cure), version())
        rules = [r for r in RULES.values() if r.engine == "nemo_rl" and not r.place and r.holds(seen.version)]
        if any(found.severity == "error" for found in findings(seen, rules)):
            continue  # the remedy is for one rule, and another refuses the config all the same
        looked_at += 1
        if why := "".join(verdicts()[f"cured {number}"].values()):
            refused[str(case)] = why
    assert not refused, f"{len(refused)} of {looked_at}"
    assert looked_at > len(cases()) / 2


def test_the_words_of_a_comparison_stand_for_metrics_that_it_logs() -> None:
    """Their last parts stand in its sources, and what stands before them are the prefixes that GRPO logs under."""
    from nano_exp.results.curves import NAMES

    folders = ("algorithms", "experience")
    sources = [path.read_text() for name in folders for path in (Path(CHECKOUT) / "nemo_rl" / name).rglob("*.py")]
    assert all(any(f'"{name.rpartition("/")[2]}"' in text for text in sources) for name in NAMES.values())
    grpo = (Path(CHECKOUT) / "nemo_rl" / "algorithms" / "grpo.py").read_text()
    prefixes = {name.rpartition("/")[0] for name in NAMES.values()} - {"validation"}
    assert all(f'prefix="{prefix}"' in grpo for prefix in (*prefixes, "validation"))
