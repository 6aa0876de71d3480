"""Models behind OpenAI-compatible servers: asked at once, in batches, or at several addresses; what is paid for is kept and counted.

Read `connection.py` and `requests.py` first, then `openai_engine.py`.
"""
