"""From overrides to frozen configs."""

from nano_exp import project

#: The conf tree: the user's project's (with the package's behind it: nano_exp/project.py), else the package's.
CONF_DIR = project.CONF
#: What Hydra gets as its config folder; a project's own conf/ is put before it.
BASE = project.BASE / "conf"
