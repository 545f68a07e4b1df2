"""Engines: one module per way to run a model: load, read its signature, run.

An engine answers `InferRequest` with `InferResponse` and knows no wire protocol. `loading` picks
the engine an artifact's manifest names and imports only that one; `proof` asks a loaded model its
golden examples. Nothing is imported here: a voice's process (`speech/process.py`) lives in this package too.
"""
