"""`serving.server` with a leak planted in it: every step leaves behind some memory, and every
twentieth a descriptor and a thread. Called as `-m tests.serving.leaking -m serving.server ...`."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from serving import server
from serving.steps.batcher import Batcher

_kept: list[bytes] = []
_submit = Batcher.submit


def _leaking(self: Batcher, *arguments: Any, **named: Any) -> Any:
    _kept.append(os.urandom(32 * 1024))
    if len(_kept) % 20 == 0:
        os.open(os.devnull, os.O_RDONLY)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    return _submit(self, *arguments, **named)


if __name__ == "__main__":
    del sys.argv[1:3]  # how the server is called when it is not this one
    Batcher.submit = _leaking  # type: ignore[method-assign]
    server.main()
