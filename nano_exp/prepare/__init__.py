"""What a first job would make while its GPUs are idle, made ahead of it: once, under locks, and safe to repeat.

A step (step.py) looks at what is there, makes what is not, and has the command that does the same by hand: NeMo RL in
sources.py and environments.py, a container's image in image.py, the model in download.py, data in data_sets.py, the
conversion to Megatron's format in conversion.py. steps.py has those of a launch, work.py goes through them, and
step_table.py shows them.
"""
