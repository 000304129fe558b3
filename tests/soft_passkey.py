"A device for passkeys in software: it makes and signs what a browser would hand on, and whatever a test wants to be wrong with it."

import base64
import hashlib
import json
import os

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def plain(words: str) -> bytes:
    return base64.urlsafe_b64decode(words + "=" * (-len(words) % 4))


class Device:
    "One passkey on one device."

    def __init__(self, counts: bool = True):
        self.key, self.id, self.count, self.handle = ec.generate_private_key(ec.SECP256R1()), os.urandom(32), 0, b""
        self.counts = counts  # many devices always say 0

    def _client(self, kind: str, challenge: str, origin: str) -> bytes:
        return json.dumps({"type": f"webauthn.{kind}", "challenge": challenge, "origin": origin, "crossOrigin": False}).encode()

    def _data(self, name: str, verified: bool, present: bool, more: bytes = b"") -> bytes:
        flags = 1 * present | 4 * verified | 64 * bool(more)
        return hashlib.sha256(name.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big") + more

    def make(self, options: dict, origin: str, name: str = "", verified: bool = True) -> dict:
        "Answer what is asked for a new passkey."
        self.handle = plain(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        cose = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")})
        data = self._data(name or options["rp"]["id"], verified, True, bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cose)
        made = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client("create", options["challenge"], origin)
        return {"id": text(self.id), "rawId": text(self.id), "type": "public-key",
                "response": {"clientDataJSON": text(client), "attestationObject": text(made)}}

    def sign(self, options: dict, origin: str, name: str = "", verified: bool = True, present: bool = True, kind: str = "get",
             count: int | None = None) -> dict:
        "Answer what is asked for signing in."
        self.count = self.count + self.counts if count is None else count
        client, data = self._client(kind, options["challenge"], origin), self._data(name or options["rpId"], verified, present)
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        signed = {"clientDataJSON": text(client), "authenticatorData": text(data), "signature": text(signature), "userHandle": text(self.handle)}
        return {"id": text(self.id), "rawId": text(self.id), "type": "public-key", "response": signed}
