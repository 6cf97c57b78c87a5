"""What the events add up to: tables that answer questions quickly, and that can be built again from the chain.

`apply` is called inside the transaction that appends the event. It is also where a history that makes no sense is
refused (an attempt that ends twice, a second open attempt of one evaluation, a score without a valid result): then
nothing is written, so a defect or a second controller cannot run or score anything twice.

| module | what its events change |
|---|---|
| `campaign` | controllers, phases, submissions, nodes |
| `evaluation` | evaluations and attempts, official ones and those of series |
| `score` | scores and seals |
| `rejudging` | what a rejudging puts in the place of results and scores |
| `application` | (how an event finds its function, and what all of them use) |
"""

# Imported for what they register: an event of a room that is left out here would be applied to nothing.
from referee.ledger.projections import campaign, evaluation, rejudging, score  # noqa: F401 - as said above
from referee.ledger.projections.application import apply, clear, contents

__all__ = ["apply", "clear", "contents"]
