"""What things are known by: the digest of their bytes."""

from __future__ import annotations

import hashlib


def digest_of(content: bytes | str) -> str:
    """`sha256:…` of bytes, or of a text in UTF-8 (FIPS 180-4; the form is that of the OCI image specification)."""
    return "sha256:" + hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
