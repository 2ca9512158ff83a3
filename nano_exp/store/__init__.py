"""Runs as folders of plain files, what those say, and what Slurm says of them."""
