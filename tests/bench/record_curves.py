"""Records a grid of embedded runs, for studies that are replayed: `python tests/bench/record_curves.py 8 FILE`.

Each seed's supervised warm start is made once and given to all points of the seed: it depends on the seed alone. Rows
are those of metrics.jsonl, of which validation accuracy and the seconds of a step are kept.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RATES = (5e-4, 1e-3, 2e-3)
GENERATIONS = (4, 8, 16)
STEPS = 120
VAL_PERIOD = 10


def main(seeds: range, target: Path) -> None:
    """Append a line a run: its seed, point, accuracies by step, and seconds of each step."""
    from core_case import frozen

    from nano_exp.engines.embedded import settings, train

    warm: dict[int, tuple[Any, Any]] = {}

    class Recorded(train.Run):
        """A run whose warm start is taken from another of the same seed."""

        def _warm_start(self) -> None:
            seed = self.settings.seed
            if seed not in warm:
                super()._warm_start()
                warm[seed] = copy.deepcopy(self.trainer.model.state_dict()), self.chance
                return
            weights, chance = warm[seed]
            self.trainer.model.load_state_dict(weights)
            self.trainer.restore_chance(chance)
            self.trainer.freeze_reference()
            self.chance = self.trainer.chance()
            self._write(0, self._validate(0))

    for seed, rate, generations in itertools.product(seeds, RATES, GENERATIONS):
        words = [f"grpo.seed={seed}", f"optimizer.lr={rate}", f"grpo.num_generations_per_prompt={generations}"]
        more = [f"grpo.max_num_steps={STEPS}", f"grpo.val_period={VAL_PERIOD}", "logger.wandb_enabled=false"]
        began = time.time()
        with tempfile.TemporaryDirectory() as folder:
            config = frozen(Path(folder), *words, *more, "checkpointing.enabled=false").config
            sections = {
                name: config[name] for name in ("grpo", "loss_fn", "policy", "data", "env", "engine", "cluster")
            }
            config = {**sections, "checkpointing": config["checkpointing"], "logger": config["logger"]}
            config["logger"]["log_dir"] = config["checkpointing"]["checkpoint_dir"] = folder
            run = Recorded(settings.from_config(config), Path(folder) / "metrics.jsonl", lambda: False)
            run.execute()
            rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        by_step: dict[int, dict[str, Any]] = {}
        for row in rows:
            by_step.setdefault(row["step"], {}).update(row)
        record = {
            "seed": seed,
            "lr": rate,
            "generations": generations,
            "accuracy": {
                s: round(r["validation/accuracy"], 4) for s, r in by_step.items() if "validation/accuracy" in r
            },
            "reward": [round(by_step[s]["train/reward"], 4) for s in sorted(by_step) if s],
            "seconds": [round(by_step[s]["timing/train/total_step_time"], 4) for s in sorted(by_step) if s],
        }
        with target.open("a") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
        print(f"{words} {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    first, last = map(int, sys.argv[1].split("-"))
    main(range(first, last + 1), Path(sys.argv[2]))
