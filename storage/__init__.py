"""Artifacts on disk: identity, atomic shards, manifests, leases, and the catalogue of runs. Independent of MIND's stages.

`<root>/<stage>/<fingerprint>/` holds one complete, immutable artifact; `<fingerprint>.partial/` one that is being written.
"""
