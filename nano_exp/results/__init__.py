"""The results of runs as data: what `nano-exp compare`, `summary`, a report and `nano_exp.load` are made from.

    from nano_exp.results import load_results

    found = load_results(Path("results"), ["lr_sweep"])     # -> Results
    found.axes                      ("optimizer.lr", "grpo.num_generations_per_prompt"), without the seed
    found.held                      {"model": "nano_12b", ...}: typed for all runs, with one value
    found.points                    one Point for each place on the axes, in sweep order
        point.axes                  {"optimizer.lr": 1e-06, ...}; point.label is the same in words
        point.runs                  its Runs, one a seed; point.seeds
    found.runs                      all Runs, in sweep order
        run.name run.id run.axes run.seed run.state run.dir; run.line has all that status shows (why, next, cause, ...)
        run.cost                    Cost: GPU-hours and seconds spent, useful, wasted (failed, repeated, requeued)
        run.metrics                 Metrics, read at the first look
            run.metrics.names       every metric's own name; `reward`, `validation`, ... stand for theirs (NAMES)
            run.metrics.series("reward")    Series: steps, values; what was not finite is left out and counted
            run.metrics.until("gpu-hours")  step -> what it had cost by then (COSTS: steps, tokens, gpu-hours, time)

Everything is frozen and nothing here prints. Slurm is asked with one `squeue`, as status does, and one `sacct`.
"""

from nano_exp.results.curves import COSTS, NAMES, Metrics, Series, metric_name
from nano_exp.results.load import load_results
from nano_exp.results.model import Cost, Point, Results, Run

__all__ = [
    "COSTS",
    "NAMES",
    "Cost",
    "Metrics",
    "Point",
    "Results",
    "Run",
    "Series",
    "load_results",
    "metric_name",
]
