"""Rules whose NeMo RL is newer than v0.7.0, on the recipes of nemo_rl=main."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY_2, TWELVE, Case, assert_case, base, said, view

from nano_exp.nemo_rl import versions
from nano_exp.preflight.cost import checkpoints
from nano_exp.preflight.loss import NEWEST_READ

MAIN = versions.version_of("main")
M, OPT, GEN = "policy.megatron_cfg", "policy.megatron_cfg.optimizer", "policy.generation"
GROUPED = "grpo.val_num_generations_per_prompt"
STOP, THRESHOLD = "grpo.stop_at_validation_metric", "grpo.stop_at_validation_threshold"
OFFLOAD = (f"{OPT}.optimizer_cpu_offload=true", f"{OPT}.optimizer_offload_fraction=1.0")


def case(rule: str, row: tuple[str, ...], bad: tuple[str, ...], *cure: str, typed: bool = True) -> Case:
    return Case(rule, ("nemo_rl=main", *row), bad, cure, typed, MAIN)


CASES = [
    case("validation_sampling", TWELVE, (f"{GEN}.val_temperature=0.5",), f"{GEN}.val_temperature=1.0"),
    case("validation_sampling", TWELVE, (f"~{GEN}.val_top_k",), f"{GEN}.val_top_k=null"),
    case("validation_sampling", NINE, (f"{GEN}.val_top_k=5",), f"{GEN}.val_top_k=null"),
    case("validation_answers", TWELVE, (f"{GROUPED}=0",), f"{GROUPED}=1"),
    case("early_stop", TWELVE, (f"{STOP}=accuracy",), f"{THRESHOLD}=0.9"),
    case("early_stop", TWELVE, (f"{STOP}=acc", f"{THRESHOLD}=0.9"), f"{STOP}=accuracy"),
    case("early_stop", TWELVE, (f"{STOP}=pass_k", f"{THRESHOLD}=0.9"), f"{GROUPED}=4"),
    case(
        "early_stop",
        TWELVE,
        (f"{STOP}=accuracy", f"{THRESHOLD}=0.9", "grpo.val_period=0", "grpo.val_at_end=false"),
        "grpo.val_period=10",
    ),
    case("checkpoint_times", TWELVE, ("checkpointing.ft_save_period=0",), "checkpointing.ft_save_period=null"),
    case("checkpoint_metric", TWELVE, ("checkpointing.metric_name=val:pass_k",), f"{GROUPED}=4", typed=False),
    case("offloaded_optimizer", TWELVE, (f"{OPT}.overlap_cpu_optimizer_d2h_h2d=true",), *OFFLOAD, typed=False),
    case(
        "offloaded_optimizer", TWELVE, (*OFFLOAD, f"{OPT}.use_distributed_optimizer=false"), OFFLOAD[0][:-4] + "false"
    ),
    case("offloaded_optimizer", TWELVE, (*OFFLOAD, f"{OPT}.optimizer=muon"), f"{OPT}.optimizer=adam"),
    case("whole_optimizer_offload", TWELVE, OFFLOAD[:1], f"{OPT}.optimizer_offload_fraction=1.0"),
    case("context_parallel_packs", THIRTY_2, (f"{M}.use_fused_linear_logprobs=true",), f"{M}.context_parallel_size=1"),
    case("fused_logprobs", THIRTY_2, (f"{M}.use_fused_linear_logprobs=true",), "policy.sequence_packing.enabled=false"),
    case("fused_logprobs", TWELVE, (f"{M}.use_fused_linear_logprobs=true", f"{GEN}.top_p=0.9"), f"{GEN}.top_p=1.0"),
    case(
        "reward_penalties_need_gym",
        TWELVE,
        ("reward_penalties.penalize_empty_final_answer=true",),
        "reward_penalties.penalize_empty_final_answer=false",
    ),
    case(
        "reward_penalties_need_gym",
        NINE,
        ("reward_penalties.penalize_unwanted_tokens=true",),
        "reward_penalties.token_ids.unwanted=[5]",
    ),
    case("known_names", TWELVE, (f"{GEN}.backend=dynamos",), f"{GEN}.backend=dynamo"),
    case("known_datasets", TWELVE, ("data.train.dataset_name=NuminaMath",), "data.train.dataset_name=NuminaMath-1.5"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_of_main_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_what_main_allows_that_releases_refuse() -> None:
    main = ("nemo_rl=main", *TWELVE)
    half = (f"{OPT}.optimizer_cpu_offload=true", f"{OPT}.optimizer_offload_fraction=0.5")
    assert said("whole_optimizer_offload", TWELVE, half)
    assert not said("whole_optimizer_offload", main, half, MAIN)
    assert not said("validation_sampling", ("nemo_rl=main", *NINE), (f"{GEN}.val_temperature=0.1",), MAIN)
    assert not said("known_names", main, (f"{GEN}.backend=trtllm",), MAIN)
    assert said("known_names", TWELVE, (f"{GEN}.backend=trtllm",))


def test_names_are_those_of_the_commit_that_was_read_and_another_branch_may_know_more() -> None:
    assert MAIN == NEWEST_READ
    bad = (f"{GEN}.backend=mine",)
    assert said("known_names", ("nemo_rl=main", *TWELVE), bad, MAIN)
    assert not said("known_names", ("nemo_rl=main", *TWELVE), bad, "v0.7.0+aaaaaaaaaaaa")


def test_main_keeps_checkpoints_for_a_crash_beside_the_best() -> None:
    row = ("nemo_rl=main", *TWELVE)
    steps = ("grpo.max_num_steps=1000", "checkpointing.save_period=10", "checkpointing.keep_top_k=3")
    often = ("checkpointing.ft_save_period=2", "checkpointing.ft_keep_latest_k=4")

    def count(*overrides: str, version: str = MAIN) -> int:
        kept = checkpoints(view(row, overrides, version))
        assert kept is not None
        return kept.count

    assert base(row)["checkpointing"]["enabled"]
    assert count(*steps) == count(*steps, *often, version="v0.7.0") == 5
    assert count(*steps, *often) == 3 + 4 + 1
    assert count(*steps[:2], "checkpointing.keep_top_k=null", *often) == 100 + 4 + 1
    assert count("grpo.max_num_steps=4", *steps[1:], *often) == 1 + 2
