"""What NeMo RL's vLLM backend asks of a config (nemo_rl/models/generation/vllm/vllm_generation.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.layout.divisors import divisor
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View, product

CFG = "policy.generation.vllm_cfg"
TP, PP, EP = f"{CFG}.tensor_parallel_size", f"{CFG}.pipeline_parallel_size", f"{CFG}.expert_parallel_size"
#: Where vLLM's own keys may be left out: NeMo RL or the attempt sets them.
FILLED_IN = (f"{CFG}.skip_tokenizer_init", f"{CFG}.tool_parser_plugin")


@rule(20)
def engines_divide_gpus(c: View) -> Iterator[Mistake]:
    """The GPUs that generate are cut into vLLM engines of equal size."""
    size = product(c.vtp, c.vpp)
    if not c.vllm or size is None or c.generating is None or c.generating % size == 0:
        return
    fit = divisor(c.generating, c.vtp or 1)
    yield Mistake(
        (TP, PP, "cluster.num_nodes", "cluster.gpus_per_node"),
        f"{c.generating} GPUs generate, which is not a whole number of engines of {c.vtp} x {c.vpp} = {size} GPUs",
        f"{TP}={fit} {PP}=1",
    )


@rule(22)
def expert_engines(c: View) -> Iterator[Mistake]:
    """vLLM's expert parallel size is a multiple of its tensor parallel size."""
    ep = c.number(EP)
    if not c.vllm or ep is None or ep <= 1 or c.vtp is None:
        return
    if ep % c.vtp:
        yield Mistake(
            (EP, TP),
            "vLLM's expert parallel size is its data parallel times its tensor parallel size",
            f"{EP}={max(1, ep // c.vtp) * c.vtp}, or {TP}={divisor(ep, c.vtp)}",
        )
    elif ep != c.vtp and c.async_engine:
        yield Mistake(
            (EP, TP, f"{CFG}.async_engine"),
            "experts over several engines need data parallel inside vLLM, which the asynchronous engine does not have",
            f"{CFG}.async_engine=false, or {EP}={c.vtp}",
        )


def _out_of_range(value: object, low: float, high: float | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not value > low or (high is not None and value > high)


@rule(23)
def sampling_range(c: View) -> Iterator[Mistake]:
    """top_p is above 0 and at most 1; top_k is null, -1 or at least 1."""
    if not c.vllm:
        return
    top_p, top_k = c.get("policy.generation.top_p"), c.get("policy.generation.top_k")
    if _out_of_range(top_p, 0, 1):
        yield Mistake(
            ("policy.generation.top_p",),
            "it is a probability: above 0 and at most 1",
            "policy.generation.top_p=1.0 (no filtering)",
        )
    if type(top_k) is int and top_k < 1 and top_k != -1:
        yield Mistake(
            ("policy.generation.top_k",),
            "it is how many tokens are left to choose from, so at least 1",
            "policy.generation.top_k=null (no filtering)",
        )


@rule(23, versions="<v0.6.0")
def sampling_is_unfiltered(c: View) -> Iterator[Mistake]:
    """Before v0.6.0 log probabilities of filtered sampling are not had from vLLM."""
    if not c.vllm:
        return
    top_p, top_k = c.get("policy.generation.top_p"), c.get("policy.generation.top_k")
    if isinstance(top_p, int | float) and 0 < top_p < 0.99:
        yield Mistake(
            ("policy.generation.top_p",),
            "this version's vLLM returns no log probabilities after filtering: 0.99 or more counts as no filtering",
            "policy.generation.top_p=1.0, or nemo_rl=v0_7",
        )
    if type(top_k) is int and 1 <= top_k < 8000:
        yield Mistake(
            ("policy.generation.top_k",),
            "this version's vLLM returns no log probabilities after filtering: 8000 or more counts as no filtering",
            "policy.generation.top_k=null, or nemo_rl=v0_7",
        )


@rule(24)
def vllm_keys(c: View) -> Iterator[Mistake]:
    """The keys that the vLLM backend reads without a default."""
    known = c.facts.keys(c.release)
    if not c.vllm or known is None:
        return
    for key in known.required("policy.generation", "VllmConfig"):
        if not c.has(key) and key not in FILLED_IN and c.has(key.rpartition(".")[0]):
            yield Mistake(
                (), "the vLLM backend reads it without a default and stops", f"++{key}=...", f"{key} is missing"
            )


@rule(25)
def engines_inside_nodes(c: View) -> Iterator[Mistake]:
    """An engine's GPUs are those of one node, so engines divide a node's GPUs."""
    # One that is larger than a node gets a placement group over nodes (vllm_generation.py 177, v0.7.0): slow, and good.
    size = product(c.vtp, c.vpp)
    gpus = c.generating if c.policy_nodes == 1 else c.gpus
    if not c.vllm or size is None or gpus is None or c.generating is None:
        return
    if c.generating % size:
        return  # engines_divide_gpus says it
    if size > gpus:
        yield Mistake(
            (TP, PP, "cluster.gpus_per_node"),
            f"an engine of {size} GPUs spans nodes of {gpus}: every token crosses the network between them",
            f"{TP}={divisor(gpus, c.vtp or 1)} {PP}=1",
            severity="warning",
        )
    elif gpus % size:
        yield Mistake(
            (TP, PP, "cluster.gpus_per_node"),
            f"a node has {gpus} GPUs to generate with, which is not a whole number of engines of {size}; "
            "worker groups are cut inside a node",
            f"{TP}={divisor(gpus, c.vtp or 1)} {PP}=1",
        )
