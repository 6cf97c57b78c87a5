"""What every section of the file is: frozen, and without unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Data that never changes after it was validated, with no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
