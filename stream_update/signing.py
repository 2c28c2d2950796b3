"""Ed25519 signatures over manifests, heartbeats and decisions about lineages (RFC 8032).

A key is 32 bytes, written as base64. Its id is the first 16 hexadecimal digits of the
SHA-256 of the public key. What is signed is a prefix that says what kind of thing it
is, followed by its exact bytes, so that a signature made for one
purpose is none for another. Needs the extra ``security``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Self

from stream_update.errors import ConfigError, CorruptSnapshot

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

__all__ = ["Purpose", "SigningKey", "TrustedKeys", "key_id", "signature_headers"]

Purpose = Literal["manifest", "heartbeat", "control"]

PREFIXES: Mapping[Purpose, bytes] = {
    "manifest": b"stream-update manifest v1\0",
    "heartbeat": b"stream-update heartbeat v1\0",
    "control": b"stream-update control v1\0",
}
KEY_BYTES = 32


def key_id(public: bytes) -> str:
    """The short name of a public key of 32 bytes."""
    return hashlib.sha256(public).hexdigest()[:16]


class SigningKey:
    """A private key; raises :class:`ConfigError` if it is not one."""

    def __init__(self, private: bytes) -> None:
        _check(private, "the signing key")
        self._key: ed25519.Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.from_private_bytes(
            private
        )
        self.public = self._key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public)

    @classmethod
    def load(cls, where: str) -> Self:
        """The key at ``file:PATH`` or ``env:NAME``, in base64."""
        return cls(_read(where))

    def sign(self, message: bytes, purpose: Purpose = "manifest") -> bytes:
        """A signature of 64 bytes."""
        return self._key.sign(PREFIXES[purpose] + message)


class TrustedKeys:
    """The public keys whose signatures count; several while keys are rotated."""

    def __init__(self, publics: Iterable[bytes]) -> None:
        module = _ed25519()
        self._keys: dict[str, ed25519.Ed25519PublicKey] = {}
        for public in publics:
            _check(public, "a trusted key")
            self._keys[key_id(public)] = module.Ed25519PublicKey.from_public_bytes(public)
        if not self._keys:
            raise ConfigError("no trusted key is given", hint="name at least one public key")

    @classmethod
    def load(cls, places: Iterable[str]) -> Self:
        """Each is ``file:PATH``, ``env:NAME`` or the public key itself, in base64."""
        return cls([_read(place) for place in places])

    def knows(self, name: bytes) -> bool:
        return name.decode(errors="replace") in self._keys

    def verify(
        self, name: bytes, signature: bytes, message: bytes, purpose: Purpose = "manifest"
    ) -> bool:
        """Whether the key with this id is trusted and has signed the message."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

        key = self._keys.get(name.decode(errors="replace"))
        if key is None:
            return False
        try:
            key.verify(signature, PREFIXES[purpose] + message)
        except InvalidSignature:
            return False
        return True

    def check(self, fields: Mapping[str, bytes], message: bytes, purpose: Purpose) -> None:
        """Raise :class:`CorruptSnapshot` unless a record with these headers is signed."""
        name, signature = fields.get("key-id"), fields.get("signature")
        if not name or not signature:
            raise CorruptSnapshot("it is not signed", reason="unsigned")
        if not self.knows(name):
            raise CorruptSnapshot(
                f"it is signed with the key {name.decode(errors='replace'):.40}, which is not "
                "trusted",
                reason="untrusted-key",
            )
        if not self.verify(name, signature, message, purpose):
            raise CorruptSnapshot("its signature is wrong", reason="bad-signature")


def signature_headers(
    signing: SigningKey | None, message: bytes, purpose: Purpose
) -> tuple[tuple[str, bytes], ...]:
    """What a signed record carries beside its other headers; nothing without a key."""
    if signing is None:
        return ()
    return (
        ("key-id", signing.key_id.encode()),
        ("signature", signing.sign(message, purpose)),
    )


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415 - an extra
            ed25519,
        )
    except ImportError as error:
        raise ConfigError(
            "keys are configured, and the package cryptography is not installed",
            hint="pip install 'stream-update[security]'",
        ) from error
    return ed25519


def _read(where: str) -> bytes:
    scheme, _, name = where.partition(":")
    if scheme == "file":
        try:
            text = Path(name).read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the key {where} cannot be read: {error}", hint="check its path and its owner"
            ) from error
    elif scheme == "env":
        if name not in os.environ:
            raise ConfigError(f"the key {where} is not set", hint=f"export {name}=...")
        text = os.environ[name]
    else:
        # A private key written here by mistake must not come out in a message.
        where, text = "written in the configuration", where
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"the key {where} is not base64", hint="32 bytes in base64") from error


def _check(raw: bytes, what: str) -> None:
    if len(raw) != KEY_BYTES:
        raise ConfigError(f"{what} has {len(raw)} bytes", hint="an Ed25519 key has 32")
