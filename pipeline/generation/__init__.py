"""Text generation behind one protocol: vLLM in this process or as several copies, plain transformers, and servers (`servers/`).

Read `engine.py` first (the protocol), then `open_engine.py`.
"""
