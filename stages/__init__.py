"""Pipeline stages, one module each. A stage reads artifacts, writes one artifact, and resumes after being killed at any moment.

Each stage module has NAME, VERSION (raised when the same config would give another artifact), INPUTS, `Config` with
`config_of(run)`, `outside(config)` (digests of external inputs), `check(config)` (rejects bad input before any model is loaded) and
`run(config, inputs, out, progress)`. torch and vLLM are imported inside `run`, so that planning stays fast.
"""
