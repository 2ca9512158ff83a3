"""All rules together: every number of the catalogue, the published rows, and configs full of nonsense."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preflight_case import NINE, NINE_2, ROWS, THIRTY, TWELVE, TWELVE_2, base, view

from nano_exp.dotted import set_dotted
from nano_exp.preflight import RULES
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View

#: What NeMo RL refuses, by the number of the project's catalogue, and the rules that say it before.
CATALOGUE = {
    1: {"batch_multiplier"},
    2: {"prompts_per_dataloader"},
    3: {"validation_data"},
    4: {"force_on_policy_batch"},
    5: {"penalty_without_reference"},
    6: {"training_gpus"},
    7: {"one_node_split"},
    8: {"several_nodes_split"},
    9: {"fp8_correction", "fp8_kv_cache"},
    10: {"gym_needs_server"},
    11: {"async_grpo"},
    12: {"checkpoint_metric", "metric_between_validations"},
    13: {"checkpointing_keys"},
    14: {"one_backend"},
    15: {"arch_list"},
    16: {"layout_divides_gpus"},
    17: {"equal_micro_batches"},
    18: {"dynamic_batching"},
    19: {"dtensor_v1_limits", "draft_model"},
    20: {"engines_divide_gpus"},
    21: {"pipeline_needs_async"},
    22: {"expert_engines"},
    23: {"sampling_range", "sampling_is_unfiltered"},
    24: {"vllm_keys"},
    25: {"engines_inside_nodes"},
    26: {"whole_global_batches"},
    27: {"batches_divide_ranks"},
    28: {"whole_micro_batches"},
    29: {"filtered_sampling_and_tensor_parallel"},
    30: {"packing_alignment", "packing_room"},
    31: {"context_parallel_packs"},
    32: {"whole_optimizer_offload"},
    33: {"chunked_log_probabilities"},
    34: {"optimizer_precision"},
    35: {"recompute_granularity", "megatron_reward_model", "yarn_fields"},
    36: {
        *("dtensor_packing_and_context", "dtensor_context_and_sequence", "offload_on_one_gpu", "lora_kernels"),
        *("dtensor_yarn", "replicated_shards"),
    },
    37: {"hybrid_on_dtensor_v1", "hybrid_sequence_parallel"},
    38: {"heads_on_dtensor"},
    39: {"cpus_for_ray"},
}
OF_THE_CONFIG = [rule for rule in RULES.values() if not rule.place and rule.engine == "nemo_rl"]


def test_every_number_of_the_catalogue_has_its_rules() -> None:
    numbered: dict[int, set[str]] = {}
    for rule in RULES.values():
        if rule.number is not None:
            numbered.setdefault(rule.number, set()).add(rule.name)
    assert numbered == CATALOGUE
    assert sorted(CATALOGUE) == list(range(1, 40))


def test_every_rule_says_what_has_to_hold() -> None:
    for rule in RULES.values():
        assert rule.summary.endswith((".", ")")), rule.name
        assert len(rule.summary) < 125, rule.name


#: What a published row is warned of. The 9B saves between its validations, and is tight on one node before v0.7.0 can
#: recompute; so is the 30B on one node; the 12B of v0.5.0 lacks the fp32 cache that later ones have.
BETWEEN, FP32, TIGHT = "metric_between_validations", "mamba_cache_precision", "memory_fits"
WARNED = {
    ("v0_5", NINE): [BETWEEN, TIGHT],
    ("v0_5", NINE_2): [BETWEEN],
    ("v0_5", TWELVE): [FP32],
    ("v0_5", TWELVE_2): [FP32],
    ("v0_6", NINE): [BETWEEN, TIGHT],
    ("v0_6", NINE_2): [BETWEEN],
    ("v0_6", THIRTY): [TIGHT],
    ("v0_7", NINE): [BETWEEN],
    ("v0_7", NINE_2): [BETWEEN],
    ("v0_7", THIRTY): [TIGHT],
    ("main", NINE): [BETWEEN],
    ("main", NINE_2): [BETWEEN],
    ("main", THIRTY): [TIGHT],
}
OTHERS = (*(("model=nano_12b", f"cluster={shape}") for shape in ("1n4g", "2n4g")), ("model=nano_30b", "cluster=32n8g"))
PUBLISHED = [
    *(("v0_5", row) for row in ROWS[:4]),
    *(("v0_6", row) for row in ROWS[:5]),
    *(("v0_7", row) for row in (*ROWS, *OTHERS)),
    *(("main", row) for row in (*ROWS, *OTHERS)),
]


@pytest.mark.parametrize(("version", "row"), PUBLISHED, ids=str)
def test_a_published_row_is_accepted_at_its_version(version: str, row: tuple[str, ...]) -> None:
    seen = View(base((f"nemo_rl={version}", *row)), row, Facts(environ={}))
    found = findings(seen, [rule for rule in OF_THE_CONFIG if rule.holds(seen.version)])
    assert [f.rule for f in found] == WARNED.get((version, row), [])
    assert {f.severity for f in found} <= {"warning"}


NONSENSE = st.sampled_from([None, "", "x", -1, 0, 3, 7.5, 10**12, True, False, [], [1], {}, {"a": 1}, float("nan")])


@cache
def keys() -> list[str]:
    """Leaves and sections of the published rows."""
    views = [View(base(row)) for row in ROWS]
    return sorted(
        {key for view in views for key in (*view.leaves, *view.inner)} | {"site.env", "slurm.cpus_per_node", "model"}
    )


@settings(max_examples=100, deadline=None)
@given(
    row=st.sampled_from(ROWS),
    changes=st.dictionaries(st.deferred(lambda: st.sampled_from(keys())), NONSENSE, min_size=1, max_size=4),
    version=st.sampled_from(["v0.5.0", "v0.6.0", "v0.7.0", "main"]),
)
def test_no_rule_falls_over_nonsense(row: tuple[str, ...], changes: dict[str, Any], version: str) -> None:
    made = copy.deepcopy(base(row))
    made["nemo_rl"]["version"] = version
    for key, value in changes.items():
        set_dotted(made, key, copy.deepcopy(value))
    seen = View(made, [f"++{key}=x" for key in changes], Facts(environ={}))
    for finding in findings(seen, [rule for rule in OF_THE_CONFIG if rule.holds(seen.version)]):
        assert all((finding.found, finding.cause, finding.fix)), finding
        assert "\n" not in finding.cause + finding.fix


@pytest.mark.parametrize(
    ("versions", "version", "holds"),
    [
        ("", "v0.5.0", True),
        (">=v0.6.0", "v0.6.0", True),
        (">=v0.6.0", "v0.5.0", False),
        ("<v0.6.0", "v0.5.3", True),
        ("<v0.6.0", "v0.6.0", False),
        (">=v0.6.0,<v0.7.0", "v0.6.9", True),
        (">=v0.6.0,<v0.7.0", "v0.7.0", False),
        (">=v0.7.0", "main", True),
        (">=v0.7.0", "v0.6.0+7ea279ab1234", True),
        ("<v0.7.0", "v0.6.0+7ea279ab1234", False),
        ("<v0.7.0", "v0.6.0rc1", True),
    ],
)
def test_versions_of_a_rule(versions: str, version: str, holds: bool) -> None:
    from dataclasses import replace

    from nano_exp.nemo_rl import versions as of

    assert replace(RULES["batch_multiplier"], versions=versions).holds(of.order(version)) == holds


def test_flat_keys_are_those_of_the_config() -> None:
    seen = view(TWELVE)
    assert seen.get("grpo.num_prompts_per_step") == 32
    assert seen.section("policy.generation.vllm_cfg")["tensor_parallel_size"] == 1
    assert seen.has("policy.optimizer") and seen.get("policy.optimizer", 1) is None
    assert not seen.has("site.checkout"), "the launcher's sections are not NeMo RL's keys"
