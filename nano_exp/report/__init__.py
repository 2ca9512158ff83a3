"""What the store and Slurm say of runs, for people and for scripts."""
