"""What every event is: a frozen model, registered under the name of its kind, and the types of its fields."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from referee.challenge import Frozen
from referee.errors import LedgerError
from referee.ledger.chain import format_time

MAX_PROSE = 4000

KINDS: dict[str, type[Event]] = {}


def _inert(text: object) -> object:
    # `detail` and `signature` may quote what a submission did: no terminal escapes, no NUL (which PostgreSQL
    # refuses), no lone surrogates (which no database stores), and never without end.
    if not isinstance(text, str):
        return text
    clean = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text[: MAX_PROSE + 1])
    return clean if len(clean) <= MAX_PROSE else clean[: MAX_PROSE - 1] + "…"


def _float_text(text: str) -> str:
    # A score is kept as the text that reads back as the very same float.
    value = float(text)
    if not math.isfinite(value) or repr(value) != text:
        raise ValueError(f"{text!r} is not a finite float as `repr` writes it")
    return text


Prose = Annotated[str, BeforeValidator(_inert)]
Name = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
FloatText = Annotated[str, AfterValidator(_float_text)]
Instant = Annotated[
    AwareDatetime,
    AfterValidator(lambda moment: moment.astimezone(UTC)),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]


class Event(Frozen):
    """Something that happened. `kind` is its name in the ledger; the payload is its fields."""

    model_config = ConfigDict(allow_inf_nan=False)

    kind: ClassVar[str]
    # Only the controller that holds the lease may say this, under its epoch.
    by_controller: ClassVar[bool] = False

    def __init_subclass__(cls, *, kind: str, by_controller: bool = False, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind in KINDS:
            raise TypeError(f"two events are called {kind!r}")
        cls.kind, cls.by_controller = kind, by_controller
        KINDS[kind] = cls

    def payload(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return self.model_dump(mode="json")


def read_event(kind: str, payload: str) -> Event:
    """The event that was stored as `kind` and `payload`.

    Raises:
        LedgerError: if this version of Referee knows no such kind, or the payload does not fit it.
    """
    if kind not in KINDS:
        raise LedgerError(
            f"The ledger holds an event of the unknown kind {kind!r}.",
            hint="Use the version of Referee that wrote it, or a later one.",
        )
    try:
        return KINDS[kind].model_validate(json.loads(payload))
    except (ValidationError, ValueError) as error:
        raise LedgerError(
            f"An event of the kind {kind!r} in the ledger cannot be read: {error}.",
            hint="Check the ledger with `referee ledger verify`.",
        ) from error


def utc_now() -> datetime:
    """The clock that a ledger uses unless it is given another."""
    return datetime.now(UTC)
