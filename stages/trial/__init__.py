"""Tries what a run's configuration names before the run: loads models, answers one prompt, takes one training step; writes no artifact.

Each module here is a process that loads one thing and writes an `Outcome`; `flows/trials.py` starts them one after the other.
"""
