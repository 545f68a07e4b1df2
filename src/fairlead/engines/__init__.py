"""Engines: one module per way to run a model: load, read its signature, run.

An engine answers `InferRequest` with `InferResponse` and knows no wire protocol. `load_model` picks
the engine an artifact's manifest names and imports only that one; `proof` asks a loaded model its
golden examples.
"""

from __future__ import annotations

from fairlead.engines.loading import load_model

__all__ = ["load_model"]
