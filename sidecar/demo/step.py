"""One step of what the demo plays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

ENFORCED: Final = 10.0  # seconds that a push may take, at the very most


@dataclass(slots=True)
class Step:
    """One line of the table. `milliseconds` is what the step says it measured."""

    title: str
    expected: str
    found: str = ""
    milliseconds: float = 0.0
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.found == self.expected
