"""The `fairlead` command, and `python -m fairlead`."""

import contextlib
import signal
import sys
from types import ModuleType
from typing import cast

# While modules are imported nobody could say "interrupted" yet: let Ctrl-C just end the process.
_HANDLED = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _HANDLED:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from fairlead.kits import garbage  # noqa: E402 - see above

garbage.seldom()
# httpx takes its own command line along where `rich` is installed: a third of what an agent costs to start.
sys.modules.setdefault("httpx._main", cast("ModuleType", None))

from fairlead.cli import guard, main as cli  # noqa: E402 - see above
from fairlead.domain.explanations import INTERRUPTED  # noqa: E402 - see above
from fairlead.kits.ending import Ending  # noqa: E402 - see above


def main() -> None:
    """Run a command, and exit."""
    ending = Ending()
    code = INTERRUPTED
    with contextlib.suppress(KeyboardInterrupt):  # between two lines here
        if _HANDLED:
            guard.keep_interrupts()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = cli.run()
        if _HANDLED:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is said: what is left just ends
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
    ending.exit(code)


if __name__ == "__main__":
    main()
