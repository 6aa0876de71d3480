"""The questions stage: reads all sources, checks rows, separates training from evaluation."""
