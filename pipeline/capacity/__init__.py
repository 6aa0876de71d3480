"""Estimates whether a machine can run a configuration: memory, time and disk from the models' shapes alone.

Read `doctor.py` first; it runs all checks.
"""
