"""Speech over HTTP: the project's own API (S0-29 to 32) and OpenAI's, on the same engine.

`requests.py` and `openai.py` make a `Speech` of a request and words of a refusal; `audio.py` makes bytes of sound.
"""
