"""The latent analysis of an experiment: whether the students' hidden states tell perspectives apart, beside controls.

Read `analysis.py` first.
"""
