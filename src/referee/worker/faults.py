"""What went wrong in our own code or on our own machine, as a verdict: always the host's, never the submission's."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from referee.errors import RefereeError
from referee.images.model import NoRoomError
from referee.verdicts import Verdict
from referee.worker.judge import Judgement

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
_SHOWN_CHARACTERS = 4000


def host_fault(error: BaseException, stage: Verdict) -> Judgement:
    """The verdict on an exception of ours, which may never be charged to a submission.

    Args:
        error: what was raised.
        stage: the verdict that belongs to the stage in which it was raised.
    """
    full = any(_is_want_of_room(cause) for cause in _causes(error))
    detail = str(error) if isinstance(error, RefereeError) else "".join(traceback.format_exception(error))
    return Judgement(Verdict.HOST_FULL if full else stage, detail[-_SHOWN_CHARACTERS:], "")


def _is_want_of_room(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, NoRoomError | MemoryError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
