"""Joint training of student and MetaNet: the training set, micro-batches, and one optimiser step.

Read `step.py` first.
"""
