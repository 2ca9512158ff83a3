"""From overrides to frozen configs."""

from pathlib import Path

#: The project's conf tree.
CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
