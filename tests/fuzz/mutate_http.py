"""Seeded damage to what a browser, a monitor or an enemy sends to the console: bytes of HTTP/1.1 requests."""

import base64
import pkgutil
import random
import re
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from console_bench import PASSWORD
from fastapi.routing import APIRoute, APIRouter
from mutate_dicom import LENGTHS, NASTY_TEXTS, NASTY_UIDS

import node.console
from node.console.password import USER
from node.states import State

_METHODS = (
    "GET",
    "GET",
    "POST",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "\x7f",
)
_TARGETS = (
    b"/static/../../../etc/passwd", b"/static/%2e%2e/%2e%2e/etc/passwd", b"/static/%00", b"/static/console.css",
    b"//evil.example/", b"http://evil.example/series", b"*", b"/%ff%fe", b"/series/%2e%2e/1", b"/" + b"a/" * 4000,
    b"/series?" + b"&".join(b"page=%d" % n for n in range(3000)), b"", b"?", b"/;x", b"/series/1\\..\\", b"/\r\n/x",
)  # fmt: skip
_NUMBERS = (
    b"0", b"1", b"2", b"-1", b"1e3", b"2147483647", b"2147483648", b"9" * 400, b"\xd9\xa1", b"1.0", b"0x10", b"True",
)  # fmt: skip
_HOSTS = (
    b"127.0.0.1:8112", b"localhost", b"evil.example", b"[::1]:8112", b"[::1", b"127.0.0.1:999999", b"", b"a" * 5000,
    b"localhost\x00", b"2130706433",
)  # fmt: skip
_NASTY = (*NASTY_TEXTS, *NASTY_UIDS, b"'\"><img src=x onerror=alert(1)>", b"{{7*7}}", b"' OR 1=1 --", b"%", b"%zz")
_ENTRY = b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode())
_STRANGE_ENTRIES = (b"Basic", b"Basic !!!", b"Bearer x", b"Basic " + b"QUFB" * 3000, b"\xff", b"Basic \xff")
_HEADERS = (
    b"X-Forwarded-For", b"Forwarded", b"Cookie", b"Accept", b"Accept-Encoding", b"Range", b"If-None-Match", b"Origin",
    b"Referer", b"Sec-Fetch-Site", b"If-Modified-Since", b"Upgrade", b"Connection", b"Expect",
)  # fmt: skip
_CONTENT_TYPES = (
    b"application/x-www-form-urlencoded", b"application/json", b"multipart/form-data; boundary=x", b"\xff", b"",
)  # fmt: skip


@lru_cache(maxsize=1)
def _routes() -> tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...]:
    """Methods, path and names of query and form fields of all that the console serves, whatever that is by now."""
    package = node.console
    modules = [import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)]
    found = [
        (tuple(sorted(route.methods)), route.path, tuple(field.alias for field in _fields(route)))
        for module in modules
        for route in getattr(module, "router", APIRouter()).routes
        if isinstance(route, APIRoute)
    ]
    assert len(found) > 10, "the console's routes are no longer found"
    return tuple(found)


def _fields(route: APIRoute) -> list[Any]:
    return [*route.dependant.query_params, *route.dependant.body_params]


@lru_cache(maxsize=1)
def _form_fields() -> tuple[str, ...]:
    """Names of the inputs of all forms."""
    folder = Path(node.console.__path__[0]) / "templates"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())]
    return tuple(sorted({name for text in texts for name in re.findall(r'\bname="(\w+)"', text)}))


def _value(name: str, rng: random.Random) -> bytes:
    """Something for a field: mostly what it may hold, else anything."""
    if rng.random() < 0.5:
        return rng.choice(_NASTY)
    if name == "state":
        return rng.choice(list(State)).encode()
    if name in ("uid", "destination"):
        return rng.choice((b"1.2", b"2.25.", b"pacs", b""))
    return rng.choice(_NUMBERS)


def _form(fields: tuple[str, ...], rng: random.Random) -> bytes:
    """Fields and values as a query string or a form."""
    names = [rng.choice(fields) if fields else "x" for _ in range(rng.choice([1, 1, 2, 4, 40]))]
    pairs = [name.encode() + b"=" + _value(name, rng) for name in names]
    if rng.random() < 0.9:
        pairs = [pair.partition(b"=")[0] + b"=" + quote_from_bytes(pair.partition(b"=")[2]).encode() for pair in pairs]
    return rng.choice([b"&", b"&", b"&", b";"]).join(pairs)


def _target(path: str, fields: tuple[str, ...], rng: random.Random) -> bytes:
    """An address of one route, its parts and its query filled in."""
    made = re.sub(r"\{\w+(:\w+)?\}", "\0", path).encode()
    while b"\0" in made:
        made = made.replace(b"\0", quote_from_bytes(rng.choice([b"1", b"2", *_NUMBERS, *_NASTY])).encode() or b"%20", 1)
    if rng.random() < 0.6 and (fields or rng.random() < 0.3):
        made += b"?" + _form(fields, rng)
    return made


def request(rng: random.Random) -> bytes:
    """One request as somebody with the password would send it, odd in one place or another."""
    methods, path, fields = rng.choice(_routes())
    method = rng.choice(methods if rng.random() < 0.7 else _METHODS).encode("latin-1")
    target = _target(path, fields, rng) if rng.random() < 0.9 else rng.choice(_TARGETS)
    headers = [(b"Host", rng.choice(_HOSTS) if rng.random() < 0.1 else _HOSTS[0])]
    if rng.random() < 0.9:
        headers.append((b"Authorization", _ENTRY))
    elif rng.random() < 0.5:
        headers.append((b"Authorization", rng.choice(_STRANGE_ENTRIES)))
    for _ in range(rng.choice([0, 0, 1, 2, 90])):
        headers.append((rng.choice(_HEADERS), rng.choice(_NASTY).translate(None, b"\r\n\0")))
    body = b""
    if method == b"POST" or rng.random() < 0.1:
        form = _form(fields + _form_fields(), rng)
        body = rng.choice((form, form, b'{"a":' * 300, b"--x\r\n" * 50, rng.randbytes(200), b""))
        headers.append((b"Content-Type", rng.choice(_CONTENT_TYPES)))
        if rng.random() < 0.8:
            length = len(body) if rng.random() < 0.8 else rng.choice(LENGTHS)
            headers.append((b"Content-Length", b"%d" % length))
        else:
            headers.append((b"Transfer-Encoding", b"chunked"))
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    rng.shuffle(headers)
    lines = [method + b" " + target + b" HTTP/" + rng.choice((b"1.1",) * 9 + (b"1.0", b"2.0", b"0.9"))]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in headers), b"", body])


def mutate(rng: random.Random) -> bytes:
    """What one client sends: one request or several, whole or damaged."""
    sent = bytearray(b"".join(request(rng) for _ in range(rng.choice([1, 1, 1, 1, 2, 3]))))
    kind = rng.random()
    if kind < 0.05:
        del sent[rng.randrange(len(sent)) :]
    elif kind < 0.15:
        for _ in range(rng.choice([1, 2, 8])):
            sent[rng.randrange(min(len(sent), 600))] = rng.randrange(256)
    return bytes(sent)
