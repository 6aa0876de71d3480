"""Experiments over many runs: a worker that processes them, the comparison of arms with intervals, claims, and the phase diagram.

Read `comparison.py` first.
"""
