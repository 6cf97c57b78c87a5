"""What is to be expected of a campaign: the planner's words for what the ledger holds, and the other way round.

| module | noun |
|---|---|
| `fleet` | the machine types that a challenge's engine has, as the planner's catalogue |
| `history` | the ledger's attempts as the planner's groups |
| `probing` | a few files of some of the pilot on every machine type, for the speed of each |
| `drawing` | the pilot of a phase, drawn and resumed |
| `lessons` | what the attempts so far have taught: start-up, time for an item, memory, failures, speeds |
| `speeds` | how fast each machine type is for a kind of submissions, and for each of them |
| `execution` | the confirmed plan as the controller's orders |
| `dispatch` | what the order of dispatch lets one believe: drift, and the pilot where nothing starts at random |
| `interruptions` | how often spot machines are taken away, learned from the ledger |
| `outlook` | the forecast as it stands, with what endangers deadline and budget |
| `watch` | when to look again while a campaign runs, and what of it the ledger keeps |
| `hindsight` | what was forecast beside what came |

`planning` knows no ledger and the ledger no planner; this room knows both.
"""
