"""The student as the objective sees it: batches and packed lines of tokens, attention over them, losses, hidden states, LoRA.

Needs only torch and transformers. Read `objective.py` first (the equation), then `batch.py` and `token_losses.py`.
"""
