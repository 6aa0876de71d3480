"""The parts of `scripts/gpu_check.py`, each a program of its own. Read `part.py` first: what a part is given and what it reports."""
