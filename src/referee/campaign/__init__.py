"""The controller: reconcile what the ledger wants with what the engine says, until every evaluation has ended.

One pass (`Campaign.step`) settles the attempts that ended, asks the policy what comes next, and dispatches as much as
the engine takes. Nothing is held in memory that is not in the ledger, so the controller can be killed between any two
instructions: the next one adopts what runs, reads the results that were written meanwhile, and goes on.

| module | what is in it |
|---|---|
| `controller` | `Campaign`: the pass, and what the operator can ask for |
| `requests` | which evaluations are wanted, and which are held back |
| `intents` | what is recorded of an attempt before it runs, and what it is told |
| `settlement` | how an attempt ended, by its worker's result or for want of one; results that came too late |
| `series` | the challenge as a series of further runs is made under |
"""

from referee.campaign.controller import Campaign
from referee.campaign.series import for_series

__all__ = ["Campaign", "for_series"]
