"""What MIND computes: questions, prompts, generation, grading, selection, MetaNet, the student's objective and one training step.

Pure domain code: no Prefect, no artifact store, no processes of its own. Read first: `config/run.py` (the whole run as data), then
`metanet/network.py`, `metanet/selection_and_weights.py` and `student/objective.py` (the method), then `training/step.py` (all of it in
one step).
"""
