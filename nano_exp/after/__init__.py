"""What comes after a run's training: its checkpoint as Hugging Face weights (export.py) with a card (card.py), and
evaluations of it (evaluation.py). One of each at a time, and each once; a job does it with `python -m nano_exp.after`.
"""
