"""What `hiperrag doctor` says of one thing it looked at."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `ok` None means worth knowing, but no fault."""

    ok: bool | None
    what: str
    advice: str = ""
