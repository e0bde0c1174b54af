"""The one family of errors. Each kind fixes the exit code that scripts and CI rely on.

A message says what, where, expected and found, in terms of the user's file and our units; the hint is the next step.
"""

from collections.abc import Iterable
from typing import ClassVar

NEAR = 0.7  # of two words' letters, how many must be in both, in order, for one to be taken for a slip of the other


class PortError(Exception):
    """Anything that stops densenet-port for a reason the user can act on."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep `message` (what, where, expected, found; further lines are detail) and `hint` (the next step)."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Message, then the hint on a line of its own."""
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class ComparisonError(PortError):
    """Two things that should agree do not."""

    kind = "comparison"
    exit_code = 1


class UsageError(PortError):
    """The command, a table or an option cannot be carried out as given."""

    kind = "usage"
    exit_code = 2


class MisfitError(PortError):
    """A readable checkpoint that does not fit the layout or the architecture."""

    kind = "misfit"
    exit_code = 3


class CorruptError(PortError):
    """A file that is broken, hostile, or no checkpoint at all."""

    kind = "corrupt"
    exit_code = 4


class NetworkError(PortError):
    """A download that did not arrive, or arrived wrong."""

    kind = "network"
    exit_code = 5


class DiskError(PortError):
    """A file or folder that cannot be read or written."""

    kind = "disk"
    exit_code = 6


def nearest(word: str, known: Iterable[str]) -> str:
    """How a hint begins about a word that is none of those known: `did you mean …? `, or nothing where none is near.

    Another number is no slip: it means another network.
    """
    from difflib import get_close_matches  # noqa: PLC0415 (only a slip pays for it)

    alike = [name for name in known if _digits(name) == _digits(word)]
    near = get_close_matches(word.lower(), alike, n=1, cutoff=NEAR)
    return f"did you mean {near[0]}? " if near else ""


def _digits(word: str) -> str:
    return "".join(filter(str.isdigit, word))
