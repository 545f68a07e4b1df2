"""Fuzzing a running Fairlead: bytes nobody should send, and what must hold after each batch of them."""
