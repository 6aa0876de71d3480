"""The training stage: launches the ranks, trains under DeepSpeed ZeRO, saves checkpoints, exports the student.

Read `stage.py` first, then `rank.py`.
"""
