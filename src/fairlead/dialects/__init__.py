"""Dialects: one module per wire protocol, bytes to `InferRequest` and `InferResponse` to bytes.

A codec is made once per model and knows its signature; everything that can be looked up is looked up
then. A dialect knows neither sockets nor status codes: it raises FairleadError, and gives errors the
shape its protocol wants.
"""
