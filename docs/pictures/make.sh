#!/usr/bin/env bash
# The pictures of the README and the docs, from runs on this machine: `make pictures`. The sweep trains 36 tiny runs, some
# 20 minutes on two cores; what is done already is not trained again.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
here=docs/pictures

python launch.py -m sweeps=lr_x_generations optimizer.lr=1e-4,5e-4,2e-3,8e-3 grpo.num_generations_per_prompt=4,8,16 \
  grpo.seed=1,2,3 grpo.max_num_steps=40 grpo.val_period=10 parallel=2 yes=true
nano-exp compare lr_x_generations
nano-exp plot lr_x_generations --kind heatmap -o $here/heatmap.png
nano-exp plot lr_x_generations --metric reward --metric validation --metric approx_entropy -o $here/curves.png
nano-exp report lr_x_generations -o results/lr_x_generations.html
python $here/study.py $here/study.png
python $here/terminal.py $here/plan.svg 120 200 14 60 -- nano-exp plan model=nano_12b cluster=1n8g
python $here/terminal.py $here/watch.svg 100 24 24 15 -- nano-exp watch lr_x_generations
