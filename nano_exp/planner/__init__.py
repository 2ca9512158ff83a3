"""Which layout of a run fits its GPUs, and why: memory first, step time as an estimate. Formulas: docs/planner.md.

`judge(config, gpu)` is what preflight asks; `nano-exp plan` and `parallelism=auto` are in command.py and auto.py. Rules
of layouts are in layouts.py. No torch: arithmetic on facts.
"""

from nano_exp.planner.verdict import Verdict, judge

__all__ = ["Verdict", "judge"]
