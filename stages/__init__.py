"""The stages of a run. A stage reads artifacts, writes one artifact, and can be killed and restarted at any time.

Each stage is a folder with a `stage.py` that defines NAME, VERSION (raised when the same configuration gives another artifact), INPUTS,
`Config`, `config_of(run)`, `outside(config)` (digests of external inputs), `check(config)` (bad input that is visible before any model
loads) and `run(config, inputs, out, progress)`. `python -m stages.NAME` is its process. Heavy libraries are imported inside `run`, so
planning is fast. A stage imports `core`, `shared` and its own folder, never another stage. Read `core/plan.py` first.
"""
