"""What runs a stage: the plan with its fingerprints, the process, progress, memory, summaries, and explanations of what would run.

Read `plan.py` first, then `process.py`.
"""
