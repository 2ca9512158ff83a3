"""The parts of slurm/minicluster. Standard library only: it runs with the system's Python, outside any environment."""
