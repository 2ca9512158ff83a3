"""What several tests of the reports use: a line, and a store with a queue."""

from __future__ import annotations

from nano_exp.report.status import Line

LINE = Line(
    name="lr_sweep",
    run="r0123456789",
    state="running",
    why="",
    job="12_3",
    attempt=1,
    step=120,
    max_steps=1000,
    reward=0.5,
    validation_accuracy=0.25,
    gpu_hours=12.3,
    age_s=3600.0,
    cause="",
    remedy="",
    stalled_s=None,
    next="",
    overrides=["model=nano_9b", "optimizer.lr=1e-6", "grpo.num_generations_per_prompt=8"],
    point={"optimizer.lr": 1e-6, "grpo.num_generations_per_prompt": 8},
    user=None,
    created=0.0,
    dir="/r",
    damaged=[],
)
