"""Flows over many runs: MIND, baselines and ablations (`arms.py`), their phase diagram, their latent analysis."""
