"""Stand-in for NeMo RL's examples/run_grpo.py (see README.md): same contract, no training."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stand_in import main

if __name__ == "__main__":
    main(gym=False)
