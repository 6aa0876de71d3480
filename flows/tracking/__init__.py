"""Experiment trackers: TensorBoard, Weights & Biases, MLflow.

A tracker gets what the artifacts hold, and nothing is computed for it. Read `following.py` first: it says when which values are sent, and
why a tracker cannot end a run. Each tracker has a file that knows its library.
"""
