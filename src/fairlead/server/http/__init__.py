"""The HTTP way in: one ASGI callable.

It answers the routes that matter for speed and health itself, from tables made when a model is loaded;
everything else goes to a FastAPI app that is built when somebody first asks for it.
"""
