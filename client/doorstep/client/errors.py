"""Client: the errors that only a script can meet; the rest are those of :mod:`doorstep.protocol.errors`.

::

    DoorstepError
    └── PeerError
        ├── CommandFailed     ``check=True`` and the command did not end with exit code 0
        ├── TransferDamaged   the bytes that arrived do not have the hash that was announced
        └── TerminalEnded     the program in the terminal ended before the expected text came
    InvalidInput
        └── TooLarge          the file does not fit the limit of a call that holds it in memory
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorstep.protocol.errors import InvalidInput, PeerError

if TYPE_CHECKING:
    from doorstep.client.commands import CommandResult

__all__ = ["CommandFailed", "TerminalEnded", "TooLarge", "TransferDamaged"]


class CommandFailed(PeerError):
    """A command run with ``check=True`` failed; ``result`` is what it left."""

    code = "command-failed"

    def __init__(self, result: CommandResult) -> None:
        super().__init__(f"the command {_how(result)}; its stderr is in .result.stderr")
        self.result = result
        self.exit_code = result.exit_code


class TransferDamaged(PeerError):
    """``path`` did not arrive whole; nothing was put in its place. Transfer it again."""

    code = "transfer-damaged"
    exit_code = 74

    def __init__(self, path: str, expected: str, got: str) -> None:
        super().__init__(f"{path}: announced {expected}, arrived {got}; transfer it again")
        self.path = path
        self.expected = expected
        self.got = got


class TerminalEnded(PeerError):
    """The program in the terminal ended while ``expect()`` waited; ``output`` is what was not read yet."""

    code = "terminal-ended"

    def __init__(self, pattern: str, output: bytes) -> None:
        super().__init__(f"the terminal ended before {pattern!r} came")
        self.pattern = pattern
        self.output = output


class TooLarge(InvalidInput):
    """A file of ``size`` bytes is more than ``limit``; use ``download()``, which holds no file in memory."""

    code = "too-large"

    def __init__(self, path: str, size: int, limit: int) -> None:
        super().__init__(
            path, f"has {size} bytes, the limit is {limit}; use files.download() for large files"
        )
        self.size = size
        self.limit = limit


def _how(result: CommandResult) -> str:
    if result.timed_out:
        return "reached its time limit and was killed"
    if result.signal is not None:
        return f"was ended by signal {result.signal}"
    return f"ended with exit code {result.exit_code}"
