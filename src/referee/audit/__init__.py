"""The audit: one signed file that says how a board came to be, and its check by whoever does not trust the operator.

| module | noun |
|---|---|
| `archive` | the file: a tar that can be written in one way only, and that is read without unpacking |
| `signing` | the operator's key, signatures, public keys |
| `manifest` | what a bundle says it holds, by digest, and strict JSON |
| `contents` | what follows from a ledger and is in every bundle: chain, tables, boards |
| `replay` | a ledger in memory, made again from a bundle's chain |
| `bundle` | writing |
| `anchor` | the short line that is given to third parties beforehand |
| `verification` | checking: the first thing that is wrong, in one sentence |
| `recomputation` | every score once more, from predictions and labels |
| `findings` | what was found right, and what could not be told |
"""

from referee.audit.anchor import Anchor, parse_anchor, published_line
from referee.audit.archive import BundleError
from referee.audit.bundle import Holdings, write_bundle
from referee.audit.findings import Verified
from referee.audit.signing import SigningKey, public_key
from referee.audit.verification import verify_bundle

__all__ = [
    "Anchor",
    "BundleError",
    "Holdings",
    "SigningKey",
    "Verified",
    "parse_anchor",
    "public_key",
    "published_line",
    "verify_bundle",
    "write_bundle",
]
