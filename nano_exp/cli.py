"""`nano-exp`: everything about runs that is not launching them."""
from pathlib import Path
import os
def default_results() -> Path:
    return Path(os.environ.get("NANO_EXP_RESULTS", "results")).expanduser().resolve()
def main() -> int:
    return 0
