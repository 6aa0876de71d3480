"""The offline miniature: procedural questions, eight solution styles, a tokenizer and two tiny models.

A small copy of the paper's setting. Four families of questions (`dial`, `belt`, `wheel`, `clock`) are distilled; six others are only
evaluated, so transfer and forgetting are both visible. Every step of every worked solution is a small table look-up, because a model of
0.3-2 M parameters can learn that (our choice).
"""
