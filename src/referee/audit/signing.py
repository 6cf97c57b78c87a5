"""The operator's signing key (Ed25519, RFC 8032), and the public key that others know the operator by."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from referee.errors import ConfigurationError
from referee.secret_file import open_secret

_PREFIX = "ed25519:"
_PUBLIC = re.compile(r"(?:ed25519:)?([0-9a-f]{64})", re.ASCII)
# Signed is this and then the message, so that a signature made here says nothing about anything else.
_CONTEXT = b"referee bundle 1\0"
_MAX_KEY_BYTES = 4096


class SigningKey:
    """The private key. Who has it can sign in the operator's name, and open the anchors' commitments."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> SigningKey:
        """The key in `path` (PEM, PKCS #8), made if there is none; only this user can read it.

        Raises:
            HostError: it cannot be read or made.
            ConfigurationError: it is not a key, or others can read it.
        """
        text = open_secret(path, "signing key", _new_key)
        try:
            key = serialization.load_pem_private_key(text, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError(
                f"{path} is not an Ed25519 private key.",
                hint="Restore it from a backup: bundles signed with another key are not known to be yours.",
            )
        return cls(key)

    @property
    def public(self) -> str:
        """The public key, as `ed25519:…`."""
        return _PREFIX + self._key.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> str:
        """The signature of a message, as hex digits."""
        return self._key.sign(_CONTEXT + message).hex()

    def salt(self, about: str) -> str:
        """A salt that only this key gives for `about`: the same each time, so that it need not be kept."""
        seed = hashlib.sha256(b"referee salt\0" + self._key.private_bytes_raw()).digest()
        return hmac.new(seed, about.encode(), hashlib.sha256).hexdigest()


def public_key(text: str) -> str:
    """A public key as `ed25519:…`, from that, from its hex digits, from PEM, or from a file that holds one of them.

    Raises:
        ConfigurationError: if it is none of these.
    """
    given = text.strip()
    if not _PUBLIC.fullmatch(given):
        with contextlib.suppress(OSError):  # also where the text is too long for a file's name
            if Path(text).is_file():
                given = Path(text).read_bytes()[:_MAX_KEY_BYTES].decode("ascii", "replace").strip()
    if found := _PUBLIC.fullmatch(given):
        return _PREFIX + found[1]
    try:
        key = serialization.load_pem_public_key(given.encode())
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(
            f"{text[:100]!r} is not an Ed25519 public key, nor a file that holds one.",
            hint="Give it as `referee bundle` prints it: ed25519: and 64 hexadecimal digits.",
        )
    return _PREFIX + key.public_bytes_raw().hex()


def is_signed(message: bytes, signature: str, public: str) -> bool:
    """Whether `signature` (hex digits) over `message` was made with the private half of `public` (`ed25519:…`)."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public.removeprefix(_PREFIX)))
        key.verify(bytes.fromhex(signature), _CONTEXT + message)
    except (InvalidSignature, ValueError):
        return False
    return True


def short(digest: bytes) -> str:
    """32 bytes as 43 characters that survive shells, mails and web addresses (RFC 4648, section 5, no padding)."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
