"""Faults of a file that a reader repairs by an assumption if the user permits it."""

from dataclasses import dataclass, field

from lazyvol.errors import FormatError


@dataclass
class Repairs:
    """Repairs of one file; if ``permissive`` is false, the first fault raises."""

    where: str
    permissive: bool
    messages: list[str] = field(default_factory=list)

    def assume(self, problem: str, assumption: str) -> None:
        """Record that a reader makes an assumption, or raise FormatError."""
        if not self.permissive:
            raise FormatError(
                f"{self.where}: {problem}; permissive=True reads it anyway, {assumption}"
            )
        self.messages.append(f"{problem}; {assumption}")

    @property
    def attrs(self) -> dict[str, object]:
        """Return the attribute that lists the repairs; none if there are none."""
        return {"repairs": tuple(self.messages)} if self.messages else {}
