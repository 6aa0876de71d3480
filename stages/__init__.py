"""One file per stage. A stage reads artifacts, writes one artifact, and can be killed and started again at any moment.

Each stage module has NAME, VERSION (raised when the same config would give another artifact), INPUTS, `Config` with
`config_of(run)`, `outside(config)` (digests of what is read from outside), `check(config)` (bad input that can be seen before any model
loads) and `run(config, inputs, out, progress)`. torch and vLLM are imported inside `run`, so that planning stays quick.
"""
