"""In which part of a run something happened: from a traceback's functions, or from what the driver said last.

Function names and printed lines are of NeMo RL v0.7.0: models/policy/workers/*.py, models/generation/vllm/*.py,
models/megatron/{setup,community_import}.py, algorithms/grpo.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Phase -> functions; the first phase with a function in the traceback is it, so callers come after what they call.
FUNCTIONS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "conversion",
        frozenset({"import_model_from_hf_name", "handle_model_import", "save_megatron_model"}),
    ),
    (
        "refit",
        frozenset(
            {
                "refit_policy_generation", "update_weights_via_ipc_zmq", "update_weights_via_ipc_zmq_async",
                "update_weights_from_collective", "update_weights_from_collective_async", "stream_weights_via_ipc_zmq",
                "stream_weights_via_http", "broadcast_weights_for_collective", "swap_weights_via_reshard",
                "offload_before_refit", "offload_after_refit", "prepare_refit_info", "prepare_refit_info_async",
                "wake_up", "wake_up_async",
            }
        ),
    ),
    ("checkpoint", frozenset({"save_checkpoint", "load_checkpoint", "finalize_checkpoint", "init_tmp_checkpoint"})),
    (
        "logprob",
        frozenset({"get_logprobs", "get_reference_policy_logprobs", "prepare_for_lp_inference", "use_reference_model"}),
    ),
    (
        "generation",
        frozenset(
            {
                "generate", "generate_async", "generate_text", "generate_text_async", "run_multi_turn_rollout",
                "run_async_multi_turn_rollout", "run_async_nemo_gym_rollout", "process_single_sample",
                "execute_model", "_initialize_kv_caches", "determine_available_memory", "capture_model",
                "run_engine_core",
            }
        ),
    ),
    ("train", frozenset({"train", "prepare_for_training", "megatron_forward_backward"})),
    (
        "data",
        frozenset({"setup_data", "setup_response_data", "load_response_dataset", "load_dataset"}),
    ),
    ("setup", frozenset({"setup", "setup_model_and_optimizer", "init_ray", "validate_and_set_config", "MasterConfig"})),
)  # fmt: skip

#: A worker's class -> the phase when its functions say nothing.
_WORKERS = (("Vllm", "generation"), ("vllm", "generation"), ("EngineCore", "generation"), ("VLLM", "generation"))
_CONSTRUCTORS = ("Worker.__init__", "WorkerV2.__init__", "WorkerImpl.__init__")

_MARKERS = (
    (re.compile(r"▶ (?:Setting up data|Loading .*data)"), "data"),
    (re.compile(r"▶ Setting up|Worker Initialization Timing"), "setup"),
    (re.compile(r"▶ (?:Generating|Starting validation|Preparing batch)|Running initial validation"), "generation"),
    (re.compile(r"▶ (?:Preparing for logprob|Computing logprobs)"), "logprob"),
    (re.compile(r"▶ (?:Preparing for training|Training policy|Computing advantages|Processing rewards)"), "train"),
    (re.compile(r"Saving checkpoint for step"), "checkpoint"),
    (re.compile(r"Refitting policy generation|Performing policy generation refit"), "refit"),
)


def marker(text: str) -> str:
    """The phase that a line of the driver's begins, or ""."""
    for pattern, phase in _MARKERS:
        if pattern.search(text):
            return phase
    return ""


def of(functions: Iterable[str], call: str = "", who: str = "") -> str:
    """The phase of a traceback, or "".

    Parameters
    ----------
    functions: names as Python prints them ("Class.method" or "method")
    call: the Ray call, "MegatronPolicyWorker.train"
    who: the worker that printed it
    """
    names = {name.rpartition(".")[2] for name in functions}
    if call:
        names.add(call.rpartition(".")[2])
    for phase, known in FUNCTIONS:
        if names & known and not (phase == "setup" and who):
            return phase
    for prefix, phase in _WORKERS:
        if call.startswith(prefix) or who.startswith(prefix):
            return phase
    if call.endswith(_CONSTRUCTORS) or "setup" in names:
        return "setup"
    return ""
