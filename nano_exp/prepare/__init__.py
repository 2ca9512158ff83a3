"""What a first job would make while its GPUs are idle, made ahead of it: once, under locks, and safe to repeat.

A step (step.py) looks at what is there, makes what is not, and has the command that does the same by hand. The model is
in download.py. steps.py has those of a launch; work.py goes through them; step_table.py shows them.
"""
