"""Text generation behind one protocol, with three engines: vLLM in process, an OpenAI-compatible server (at once or in
batches), plain transformers.

Read `engine.py` first (the protocol), then `open_engine.py`.
"""
