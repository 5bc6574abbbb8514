"""The entry point of `erc-toolkit`: takes over the signals before anything that takes long is imported."""

from __future__ import annotations

from ..base import interrupt


def main() -> None:
    """Runs the command line. A signal ends it with one line and status 130 (SIGINT) or 143 (SIGTERM)."""
    interrupt.take_over()
    try:
        from .main import main as group

        group(prog_name="erc-toolkit")
    except SystemExit as end:
        number = interrupt.received()
        if number is not None and end.code != 128 + number:  # a library made another error of it, or none
            interrupt.leave(number)
        raise
    except BaseException:
        number = interrupt.received()
        if number is not None:
            interrupt.leave(number)
        raise
    finally:
        interrupt.ended()
