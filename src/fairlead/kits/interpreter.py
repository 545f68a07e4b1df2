"""How the Python that runs us was built. `scripts/setup.sh` runs this file before there is an environment.

As a script: exit code 0 if this Python is one to choose, 1 if another that is there should be preferred.
"""

from __future__ import annotations

import sys
import sysconfig

_FLAG = "--enable-optimizations"
# Distributions build with profiles by rules of their own, which the flags do not show.
_SYSTEM = "/usr"


def built_without_optimisations(configured: str | None, prefix: str) -> bool:
    """Is this a Python that was compiled without profiles, as `pyenv install` and `./configure && make` do?

    `configured` is what `sysconfig` says it was configured with, None where it was not (Windows); `prefix` is
    `sys.base_prefix`. Such a Python takes about a third more processor time for starts, and a seventh for requests.
    """
    return configured is not None and prefix != _SYSTEM and _FLAG not in configured


def is_slow() -> bool:
    """Was the Python that runs this built without optimisations?"""
    return built_without_optimisations(sysconfig.get_config_var("CONFIG_ARGS"), sys.base_prefix)


if __name__ == "__main__":
    sys.exit(1 if is_slow() else 0)
