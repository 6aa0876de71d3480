"""The offline world: procedural questions, eight worked styles, a tokenizer and two tiny models.

An honest small copy of the paper's setting. One family (`dial`) is distilled; five others are only
evaluated, so both transfer and forgetting can be seen. Every step of every worked solution is a small
table look-up, because that is what a model of 0.3-2 M parameters can learn (our choice).
"""
