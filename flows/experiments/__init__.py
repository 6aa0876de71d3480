"""Flows over many runs: MIND, baselines and ablations (`compare_arms.py`), their phase diagram, their latent analysis."""
