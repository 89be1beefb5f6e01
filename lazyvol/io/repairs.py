"""Faults of a file that can be guessed away, if that is asked for."""

from dataclasses import dataclass, field

from lazyvol.errors import FormatError


@dataclass
class Repairs:
    """Faults found so far: an error each, unless permissive."""

    where: str
    permissive: bool
    made: list[str] = field(default_factory=list)

    def need(self, problem: str, guess: str) -> None:
        """Note that ``problem`` is read as ``guess``, or refuse it."""
        if not self.permissive:
            raise FormatError(f"{self.where}: {problem}; permissive=True reads it anyway, {guess}")
        self.made.append(f"{problem}; {guess}")
