"""The watched process of a campaign with a fault planted into case 7: what `FAULT` in the environment says."""

import os
import sys
import time

import campaign
import gauntlet

_run, _count = gauntlet.Gauntlet.run, -1


def run(self: gauntlet.Gauntlet, kind: str, data: bytes) -> str:
    """Case by case, each way to fail."""
    global _count
    _count += 1
    fault = os.environ["FAULT"] if _count == 7 else ""
    if fault == "crash":
        os.abort()
    if fault == "decoder":
        self._stage(gauntlet.DECODING)
        os.abort()
    if fault == "loop":
        sum(iter(int, 1))
    if fault == "memory":
        bytes(4 * 2**30)
    if fault == "raise":
        raise KeyError("planted")
    if fault == "lose":
        self._stored.append(
            self._stored[0].__class__(**{**vars(self._stored[0]), "offset": 1, "origin": _stranger(self)})
        )
    time.sleep(0)
    return _run(self, kind, data)


def _stranger(self: gauntlet.Gauntlet) -> object:
    origin = self._stored[0].origin
    return origin.__class__(**{**vars(origin), "sop_instance_uid": "1.9.9"})


gauntlet.Gauntlet.run = run  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(campaign.main())
