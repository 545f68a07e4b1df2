"""The speech engine: text of a speaker to sound, a little at a time.

`model.py` is what a worker loads; `text.py` and `speakers.py` are what it understands. A synthesizer runs in a process
of its own (`process.py`, with `espeak.py`, `sherpa.py` or `tone.py`), which `voices.py` starts, asks and ends; `wire.py`
is what the two say to each other. Two processes, because a synthesizer may be under another licence than ours, may
crash, may know only one synthesis at a time, and must be stoppable at once.
"""
