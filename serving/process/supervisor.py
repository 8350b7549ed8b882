"""Several serving processes behind one REST port and one gRPC port, and the one that looks after
them.

Each worker listens on both ports for itself (SO_REUSEPORT), and the kernel spreads connections over
them. This process serves nothing. It keeps the ports, starts the workers, replaces one that dies,
and passes signals on.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from serving.process.restarts import write_restarts
from serving.settings import Settings, SetupError

log = structlog.get_logger("serving")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 10.0
"""Before a worker is replaced: doubled each time that it has not lived long."""
_LONG_LIFE_S = 10.0
_FAILED_STARTS = 5
"""So many in a row, with no worker that serves, are the end."""
_LATE_S = 5.0
"""How much longer than its grace a worker may take to end."""
_LONGEST_SOCKET_PATH = 100


def supervise(settings: Settings) -> int:
    """Run the workers until SIGTERM or SIGINT; the exit status. Raises: SetupError"""
    check_workers(settings)
    with _ports(settings) as ports, _folder() as folder:
        rest, grpc = ports
        fixed = settings.model_copy(update={"http_port": rest, "grpc_port": grpc})
        return asyncio.run(Supervisor(fixed, folder).run())


def check_workers(settings: Settings) -> None:
    """Raises: SetupError: there cannot be several processes with these settings"""
    if settings.admin_port is not None:
        raise SetupError(
            "workers: each has models of its own, and the admin door would change one worker's",
            "leave UNMIX_ADMIN_PORT out and set UNMIX_WATCH_MODELS_S, which all workers follow; or "
            "run one worker",
        )
    if settings.front == "envoy":
        raise SetupError(
            "workers: Envoy runs the service in its own process, and that once",
            "leave UNMIX_FRONT out, or run several servers behind a proxy (docs/scaling.md)",
        )
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SetupError("workers: this system has no SO_REUSEPORT", "run one worker")


class _Slot:
    """A worker's number, and the process that has it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Looks after the workers.

    Args:
        settings: with the ports that the workers share.
        folder: for the workers alone.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._slots = [_Slot(number) for number in range(1, settings.workers + 1)]
        self._ending = asyncio.Event()
        self._gave_up = False
        self._was_ready = False
        self._n_restarts = 0
        self._n_failed = 0
        """Starts in a row from which no worker came."""

    async def run(self) -> int:
        """The exit status: 0 after a signal, 1 where no worker can start or one was cut short."""
        start = time.perf_counter()
        self._take_signals()
        # One alone at first: what keeps it from starting would keep all, and is said once.
        first, *others = self._slots
        keeping = [asyncio.create_task(self._keep(first))]
        await self._ready([first])
        if not self._ending.is_set():
            keeping += [asyncio.create_task(self._keep(slot)) for slot in others]
            await self._ready(others)
        if not self._ending.is_set():
            self._say_ready(time.perf_counter() - start)
        await self._ending.wait()
        cut_short = await self._end(keeping)
        return int(self._gave_up or cut_short)

    def _take_signals(self) -> None:
        """A second SIGTERM or SIGINT kills this process as it always would, and so the workers."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)

        def end() -> None:
            self._ending.set()
            for number in numbers:
                loop.remove_signal_handler(number)

        for number in numbers:
            loop.add_signal_handler(number, end)
        if self._settings.memory_keys is not None:  # else nobody listens for it
            loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)

    def _pass_on(self, number: int) -> None:
        for slot in self._slots:
            if slot.ready.is_set():
                slot.signal(number)

    async def _ready(self, slots: list[_Slot]) -> None:
        """Wait until all of these serve, or it ends."""

        async def ready() -> None:
            for slot in slots:
                await slot.ready.wait()

        async def ended() -> None:
            await self._ending.wait()

        tasks = [asyncio.create_task(ready()), asyncio.create_task(ended())]
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    def _say_ready(self, start_s: float) -> None:
        settings = self._settings
        s = "s" if settings.tls_certificate else ""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        log.info(
            "ready",
            rest=f"http{s}://{host}:{settings.http_port}",
            grpc=f"grpc{s}://{host}:{settings.grpc_port}",
            workers=settings.workers,
            start_s=round(start_s, 3),
        )

    async def _keep(self, slot: _Slot) -> None:
        """Let there be a process of this number, until it ends."""
        wait_s = _FIRST_WAIT_S
        while not self._ending.is_set():
            start = time.monotonic()
            code, served = await self._run(slot)
            if self._ending.is_set() or not self._goes_on(served):
                return
            if time.monotonic() - start > _LONG_LIFE_S:
                wait_s = _FIRST_WAIT_S
            self._n_restarts += 1
            write_restarts(self._folder, self._n_restarts)
            log.error("a worker has ended", worker=slot.number, code=code, again_in_s=wait_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _goes_on(self, served: bool) -> bool:
        """Whether to replace a worker that has ended; where not, it is the end of all."""
        self._n_failed = 0 if served else self._n_failed + 1
        most = _FAILED_STARTS if self._was_ready else 1
        if self._n_failed >= most and not any(it.ready.is_set() for it in self._slots):
            log.error("no worker can start")
            self._gave_up = True
            self._ending.set()
        return not self._ending.is_set()

    async def _run(self, slot: _Slot) -> tuple[int, bool]:
        """Start a worker and wait for its end: (exit status, whether it served)."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                # A session of its own: Ctrl-C on a terminal reaches this process alone.
                slot.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "serving.process.worker",
                    stdin=theirs.fileno(),
                    start_new_session=True,
                )
            with contextlib.suppress(OSError):  # it has died already
                await loop.sock_sendall(ours, self._task(slot.number))
                if await loop.sock_recv(ours, 1):
                    slot.ready.set()
                    self._was_ready, self._n_failed = True, 0
            served = slot.ready.is_set()
            code = await slot.process.wait()
        slot.ready.clear()
        return code, served

    def _task(self, number: int) -> bytes:
        settings = self._settings.model_dump(mode="json")
        task = {"number": number, "folder": str(self._folder), "settings": settings}
        return msgspec.json.encode(task) + b"\n"

    async def _end(self, keeping: list[asyncio.Task[None]]) -> bool:
        """Drain all workers; whether one had to be killed, or ended otherwise than it should."""
        if not self._gave_up:
            log.info("draining")
        serving = [slot for slot in self._slots if slot.ready.is_set()]
        for slot in self._slots:
            slot.signal(signal.SIGTERM if slot in serving else signal.SIGKILL)
        grace_s = self._settings.drain_delay_s + 2 * self._settings.grace_s + _LATE_S
        _, late = await asyncio.wait(keeping, timeout=grace_s)
        for slot in self._slots:
            slot.signal(signal.SIGKILL)
        await asyncio.gather(*keeping)
        codes = {slot.number: slot.process.returncode for slot in serving if slot.process}
        if late or any(codes.values()):
            log.error("not every worker ended by itself", codes=codes)
        else:
            log.info("stopped")
        return any(codes.values())


@contextlib.contextmanager
def _ports(settings: Settings) -> Iterator[tuple[int, int]]:
    """The REST and the gRPC port, ours within. Raises: SetupError"""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(_reserved(settings.host, port, door))
            for port, door in ((settings.http_port, "http"), (settings.grpc_port, "grpc"))
        ]
        rest, grpc = (it.getsockname()[1] for it in sockets)
        yield rest, grpc


def _reserved(host: str, port: int, door: str) -> socket.socket:
    """A socket that holds a port for the workers and takes no connections. Raises: SetupError"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Without SO_REUSEPORT first: else another program of the same user that listens with it
        # would silently share its callers with the workers.
        with socket.create_server((host, port), family=family) as trial:
            port = trial.getsockname()[1]
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        raise SetupError(
            f"{door} port {port}: {error.strerror}", f"name a free port with --{door}-port"
        ) from error
    return reserved


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for this user alone, gone afterwards. Raises: SetupError"""
    try:
        folder = Path(tempfile.mkdtemp(prefix="unmix-"))
    except OSError as error:
        raise SetupError(
            f"workers: no folder for their sockets: {error.strerror}",
            "name one that can be written to with TMPDIR",
        ) from error
    try:
        if len(str(folder)) > _LONGEST_SOCKET_PATH - len("/256.sock"):
            raise SetupError(
                "workers: the path of the folder for temporary files is too long for a socket",
                "name a shorter one with TMPDIR",
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
