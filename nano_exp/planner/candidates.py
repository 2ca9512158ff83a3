"""The layouts that are worth a look: the search space of `nano-exp plan` and `parallelism=auto`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from nano_exp.layout.architecture import Architecture
from nano_exp.layout.case import Shape
from nano_exp.layout.layouts import DYNAMIC, FIXED, FSDP2, FULL, MEGATRON, NONE, PACKED, Layout
from nano_exp.layout.rules import problems

_SIZES = (1, 2, 4, 8, 16)


def valid(
    a: Architecture, shape: Shape, current: Layout, max_length: int, micros: Sequence[int] = ()
) -> Iterator[Layout]:
    """Every valid layout worth a look, without recompute and offload (see `thriftier`).

    Tensor parallel stays inside a node, expert tensor parallel is 1, sequences are packed where `current` packs them,
    and micro batches are `micros`, or powers of two up to 8 and the current one.
    """
    micros = micros or sorted({1, 2, 4, 8, current.micro_batch})
    for layout in (*_megatron_layouts(a, shape, current.batching == PACKED), *_fsdp2_layouts(a, shape)):
        for micro in micros:
            tokens = micro * max_length  # what packing and dynamic batching fill follows it too
            candidate = replace(
                layout, micro_batch=micro, logprob_batch=micro, train_tokens=tokens, logprob_tokens=tokens
            )
            if not problems(candidate, a, shape):
                yield candidate


def thriftier(layout: Layout, a: Architecture, version: tuple[int, ...]) -> Iterator[Layout]:
    """The layout, then with less memory and more time: recompute, offload, both."""
    ignored = layout.backend == MEGATRON and a.hybrid and version < (0, 7)  # its hybrid stack has no recompute
    for recompute, offload in ((NONE, False), (FULL, False), (NONE, True), (FULL, True)):
        if not (recompute == FULL and ignored):
            yield replace(layout, recompute=recompute, offload=offload, fraction=1.0)


def _megatron_layouts(a: Architecture, shape: Shape, packing: bool) -> Iterator[Layout]:
    world = shape.world or 1
    experts = [n for n in _SIZES if n <= world] if a.experts else [1]
    for tp in (n for n in _SIZES if n <= shape.gpus_per_node):
        for pp in (n for n in (1, 2, 4) if n * tp <= world):
            for cp in (n for n in (1, 2, 4) if n * tp * pp <= world and (n == 1 or packing)):
                for ep in experts:
                    yield Layout(
                        MEGATRON,
                        tensor=tp,
                        pipeline=pp,
                        context=cp,
                        expert=ep,
                        sequence_parallel=bool(a.experts) and tp > 1,
                        batching=PACKED if packing else FIXED,
                    )


def _fsdp2_layouts(a: Architecture, shape: Shape) -> Iterator[Layout]:
    if not a.experts:
        yield Layout(FSDP2, batching=DYNAMIC, force_hf=True)
        return
    for ep in (n for n in _SIZES if 1 < n <= (shape.world or 1)):
        yield Layout(FSDP2, expert=ep)
