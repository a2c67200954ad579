"""A message as JSON, signed by the rules of Standard Webhooks: id, time stamp and body under HMAC-SHA256.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import asdict
from typing import Any

from config import Reason, load_vocabulary
from config.message_settings import WebhookDestination
from config.secret import SecretError, read_secret
from node.dimse_link import AwayError
from node.messages.content import NOT_VERIFIED, TEST_MODEL, Content
from node.messages.guarded_http import Target, judge, post
from node.messages.rows import Kind
from node.outbox import Outcome

_SHORTEST_KEY = 24
"""Bytes."""


def send(receiver: WebhookDestination, message_id: str, kind: Kind, content: Content, timeout_s: float) -> Outcome:
    """One POST. Raises AwayError."""
    body = json.dumps(payload(message_id, kind, content), separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", **signed(body, message_id, _key(receiver.secret), int(time.time()))}
    target = Target(receiver.url, receiver.networks, receiver.ca_file)
    return judge(post(target, body, headers, timeout_s), "webhook")


def signed(body: bytes, message_id: str, key: bytes, at: int) -> dict[str, str]:
    """The headers by which a receiver knows who sent a body, when (seconds since 1970), and what it has already."""
    digest = hmac.digest(key, b".".join((message_id.encode(), str(at).encode(), body)), hashlib.sha256)
    signature = base64.b64encode(digest).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(at), "webhook-signature": f"v1,{signature}"}


def payload(message_id: str, kind: Kind, content: Content) -> dict[str, Any]:
    """The body; documented in docs/operations/messages.md."""
    return {
        "id": message_id,
        "type": f"fvlm.{kind}",
        "status": "preliminary",
        "notice": NOT_VERIFIED,
        "test_model": TEST_MODEL if content.test_only else None,
        "job": content.job,
        "analysed_at": content.analysed_at.isoformat(timespec="seconds"),
        "model": asdict(content.model),
        "findings": [_finding(told) for told in content.findings],
        "not_assessed": [{"anatomy": anatomy, "reason": reason} for anatomy, reason in content.not_assessed],
        "study": {name: value for name, value in asdict(content.whom).items() if value},
    }


def _finding(told: Any) -> dict[str, Any]:
    code = load_vocabulary().finding(told.finding).code
    return {
        "finding": told.finding,
        "code": {"value": code.value, "scheme": code.scheme, "meaning": code.meaning},
        "verdict": told.verdict,
        "probability": round(told.probability, 4),
        "threshold": told.threshold,
        "calibrated": told.calibrated,
        "urgent": told.urgent,
    }


def _key(source: str) -> bytes:
    """Raises AwayError: without a good secret nothing is sent."""
    try:
        secret = read_secret(source)
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except SecretError as error:
        raise AwayError(Reason.INTERNAL, str(error)) from error
    except binascii.Error as error:
        raise AwayError(Reason.INTERNAL, f"{source}: after whsec_ comes base64") from error
    if len(key) < _SHORTEST_KEY:
        raise AwayError(Reason.INTERNAL, f"{source} holds fewer than {_SHORTEST_KEY} bytes")
    return key
