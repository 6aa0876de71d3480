"""The teacher's distributions over the next token at every token of a given text: soft targets.

Read `scores.py` first: what is asked and what comes back. `open_scores.py` selects one of the three ways to get it.
"""
