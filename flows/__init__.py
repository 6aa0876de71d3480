"""Prefect flows that chain the stages: retries, states, concurrency, schedules, deployments. No computation.

Read `distill.py` first, then `stage_task.py`. The command line is `cli/`, the outermost layer.
"""
