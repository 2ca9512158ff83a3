"""What preflight asks: does this config fit this GPU, which phase decides, and what is the cheapest change that helps.

One config is judged in about half a millisecond; equal ones (by what memory depends on) cost a hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.layout import layouts, models, rules, workload
from nano_exp.layout.layouts import DYNAMIC, FIXED, FSDP2, FULL, MEGATRON, PACKED
from nano_exp.layout.workload import Job
from nano_exp.planner import inference, search
from nano_exp.planner.gpus import Constants, Gpu, constants, gpu
from nano_exp.planner.phase_memory import SHARE, Phase, deciding, phases
from nano_exp.planner.ranges import GIB


@dataclass(frozen=True)
class Verdict:
    """Whether a config fits a GPU.

    Parameters
    ----------
    klass: fits, tight or no ("no": not even the low estimate is within the limit); unknown: the planner has no
        facts about this model
    gib_low, gib_expected, gib_high: of the phase that decides, GiB on one GPU
    gib_limit: what there is in that phase: the GPU, or vLLM's share of it
    phase: the phase that decides: setup, refit, generation, vllm share, logprob, train, optimizer step
    fix: overrides to type, of the cheapest change that was checked to fit; "" where there is none or none is needed
    why: one sentence with the numbers
    """

    klass: str
    gib_low: float
    gib_expected: float
    gib_high: float
    gib_limit: float
    phase: str
    fix: str
    why: str


#: What a layout has to keep for its parts to have a size.
_TO_BE_CUT = (
    *("layers_and_pipeline", "experts_and_expert_parallel", "experts_on_dtensor"),
    *("layout_divides_gpus", "heads_and_tensor_parallel", "heads_on_dtensor"),
)


def judge(config: Mapping[str, Any], gpu_name: str) -> Verdict:
    """Judge a resolved config on a kind of GPU (gpus.yaml), with sequences as long as the config allows.

    Raises
    ------
    UserError: no such GPU, or a cluster that cannot be
    """
    device, gpu_constants = gpu(gpu_name), constants(gpu_name)
    embedded = Config(config).text("engine.name") == "embedded"
    if not embedded and (stranger := models.unknown(models.named(config))):
        return Verdict("unknown", 0.0, 0.0, 0.0, device.gib, "", "", stranger)
    try:
        job = workload.of_config(config)
    except UserError as error:
        if embedded:
            return Verdict("unknown", 0.0, 0.0, 0.0, device.gib, "", "", f"{error.found}: {error.why}")
        raise
    broken = rules.problems(job.layout, job.architecture, job.shape)
    if any(one.rule in _TO_BE_CUT for one in broken):
        return Verdict("unknown", 0.0, 0.0, 0.0, device.gib, "", "", f"the layout is not valid: {broken[0].why}")
    return judge_job(job, device, gpu_constants)


@lru_cache(maxsize=4096)
def judge_job(job: Job, device: Gpu, gpu_constants: Constants) -> Verdict:
    """The verdict on a job."""
    job_phases = phases(job, device, gpu_constants)
    worst = deciding(job_phases)
    klass = worst.klass
    fix = "" if klass == "fits" else cheapest_fix(job, device, gpu_constants)
    size = worst.size
    return Verdict(
        klass=klass,
        gib_low=round(size.low / GIB, 2),
        gib_expected=round(size.expected / GIB, 2),
        gib_high=round(size.high / GIB, 2),
        gib_limit=round(worst.limit / GIB, 2),
        phase=worst.name,
        fix=fix,
        why=_why(worst, device),
    )


def klass_of(job_phases: Sequence[Phase]) -> str:
    """The worst class of the phases."""
    return deciding(job_phases).klass


def _why(phase: Phase, device: Gpu) -> str:
    size, limit = phase.size, phase.limit / GIB
    biggest = sorted(phase.terms, key=lambda term: -term.size.expected)[:3]
    parts = ", ".join(f"{term.name} {term.size.expected / GIB:.1f}" for term in biggest)
    what = f"of vLLM's {limit:.1f} GiB" if phase.name == SHARE else f"of the {limit:.1f} GiB of {device.name}"
    needs = {
        "no": f"needs at least {size.low / GIB:.1f} GiB {what}",
        "tight": f"is expected to need {size.expected / GIB:.1f} GiB (up to {size.high / GIB:.1f}) {what}",
        "fits": f"is expected to need {size.expected / GIB:.1f} GiB {what}",
    }[phase.klass]
    stage = f" on pipeline stage {phase.stage + 1}" if phase.stage else ""
    return f"{phase.name}{stage} {needs}: {parts}"


# --- the cheapest change --------------------------------------------------------------------------------------------

Change = tuple[dict[str, Any], Job]


def cheapest_fix(job: Job, device: Gpu, gpu_constants: Constants) -> str:
    """Overrides of the first change, from cheap to dear, with which every phase fits; "" when none does."""
    for keys, changed in changes(job, device):
        if rules.problems(changed.layout, changed.architecture, changed.shape):
            continue
        if klass_of(phases(changed, device, gpu_constants)) == "fits":
            return search.as_text(keys)
    best = next(iter(search.every(job, device, gpu_constants, (), (1,))), None)
    return search.as_text(layouts.overrides(best.job.layout)) if best is not None and best.klass == "fits" else ""


def changes(job: Job, device: Gpu) -> Iterator[Change]:
    """Single changes and then pairs of them, cheapest first: what costs no speed, what costs some, other layouts."""
    single = [*_generation_changes(job, device), *_training_changes(job)]
    yield from single
    for keys, changed in single:
        for more, both in (*_generation_changes(changed, device), *_training_changes(changed)):
            if not set(more) & set(keys):
                yield {**keys, **more}, both


def _generation_changes(job: Job, device: Gpu) -> Iterator[Change]:
    g = job.generation
    if g.backend != "vllm":
        return
    vllm, sequences = "policy.generation.vllm_cfg", "policy.generation.vllm_kwargs.max_num_seqs"
    now = g.max_sequences or inference.default_sequences(device)
    for count in (n for n in (512, 256, 128, 64) if n < now):
        # Fewer at once than a step has for each engine: slower; more than it has: free.
        yield {f"++{sequences}": count}, replace(job, generation=replace(g, max_sequences=count))
    for share in (0.8, 0.7, 0.6, 0.5, 0.4):
        if abs(share - g.utilization) > 1e-9:
            yield {f"{vllm}.gpu_memory_utilization": share}, replace(job, generation=replace(g, utilization=share))
    for size in (2, 4, 8):
        if size > g.tensor and size * g.pipeline <= job.gpus_per_node and job.gpus_per_node % (size * g.pipeline) == 0:
            yield {f"{vllm}.tensor_parallel_size": size}, replace(job, generation=replace(g, tensor=size))


def _training_changes(job: Job) -> Iterator[Change]:
    n, keys = job.layout, dict[str, Any]()
    section = "policy.megatron_cfg" if n.backend == MEGATRON else "policy.dtensor_cfg"
    if n.recompute != FULL:
        keys = {f"{section}.activation_checkpointing": True}
        if n.backend == MEGATRON and job.version >= (0, 7):
            keys["++policy.megatron_cfg.recompute_granularity"] = "full"
        yield keys, replace(job, layout=replace(n, recompute=FULL, modules=()))
    if n.batching == FIXED:
        for micro in (m for m in (8, 4, 2, 1) if m < n.micro_batch and n.micro_batch % m == 0):
            tokens = micro * job.max_length
            smaller = replace(n, micro_batch=micro, logprob_batch=micro, train_tokens=tokens, logprob_tokens=tokens)
            keys = {"policy.train_micro_batch_size": micro, "policy.logprob_batch_size": micro}
            yield keys, replace(job, layout=smaller)
    elif n.train_tokens > job.max_length:
        name = {PACKED: "sequence_packing", DYNAMIC: "dynamic_batching"}[n.batching]
        fewer = replace(n, train_tokens=job.max_length, logprob_tokens=job.max_length)
        keys = {f"policy.{name}.{what}_mb_tokens": job.max_length for what in ("train", "logprob")}
        yield keys, replace(job, layout=fewer)
    if not job.chunk and (n.backend == FSDP2 or job.version >= (0, 7)):
        keys = {"policy.logprob_chunk_size": 1024}
        if n.backend == MEGATRON:
            keys["policy.megatron_cfg.defer_fp32_logits"] = True
        yield keys, replace(job, chunk=1024, defer_fp32=True)
    for size in (2, 4, 8):
        if n.backend == MEGATRON and size > n.tensor and size <= job.gpus_per_node:
            wider = replace(
                n,
                tensor=size,
                logprob_batch=n.micro_batch,
                padding=None,
                sequence_parallel=bool(job.architecture.experts) or n.sequence_parallel,
            )
            if n.batching == FIXED:
                wider = replace(wider, logprob_tokens=n.train_tokens)
            keys = {
                f"{section}.tensor_model_parallel_size": size,
                "policy.make_sequence_length_divisible_by": layouts.padding(wider),
            }
            if n.logprob_batch != n.micro_batch:
                keys["policy.logprob_batch_size"] = n.micro_batch
            if wider.sequence_parallel != n.sequence_parallel:
                keys[f"{section}.sequence_parallel"] = True
            yield keys, replace(job, layout=wider)
    if not n.offload:
        keys = {f"{section}.cpu_offload": True}
        if n.backend == MEGATRON:
            optimizer = "policy.megatron_cfg.optimizer"
            keys = {f"{optimizer}.optimizer_cpu_offload": True, f"{optimizer}.optimizer_offload_fraction": 1.0}
        yield keys, replace(job, layout=replace(n, offload=True))
