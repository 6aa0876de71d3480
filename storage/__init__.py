"""Artifacts on disk: identity, atomic shards, manifests, leases, the catalogue of runs. Knows nothing of MIND.

`<root>/<stage>/<fingerprint>/` holds one complete, immutable artifact; `<fingerprint>.partial/` one being written.
"""
