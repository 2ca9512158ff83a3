"""From overrides to frozen configs."""

from nano_exp import project

#: The conf tree: the user's project's (with the package's behind it: nano_exp/project.py), else the package's.
CONF_DIR = project.CONF
