"""Versions that come and go while the service runs, without a step lost.

A new version is read, checked and tried out on a thread beside the event loop; steps go on
meanwhile. Then new episodes begin on it, and those that run finish on the version that they began
with. An unloaded version leaves when its last episode has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container

from serving.errors import ModelInvalid, ModelNotFound
from serving.models.agent_model import AgentModel
from serving.models.repository import Fingerprint, ModelStatus
from serving.steps.service import AgentService

logger = logging.getLogger(__name__)

Key = tuple[str, int]
"""A model's name and version."""


class ModelControl:
    """Loads and unloads the versions of one service; one change at a time."""

    def __init__(self, service: AgentService) -> None:
        self._service = service
        self._repository = service.repository
        self._changing = asyncio.Lock()
        self._unloaded: set[Key] = set()
        """Taken out by hand: a scan does not bring them back."""
        self._tried: dict[Key, Fingerprint] = {}
        """What was refused at the last scan; to be tried again when its files change."""

    async def load(self, name: str, version: int) -> AgentModel:
        """Load one version, or load it again.

        Raises:
            ModelNotFound: there is no such folder.
            ModelInvalid: it was refused. What was loaded before serves on.
        """
        async with self._changing:
            if (name, version) not in await asyncio.to_thread(self._repository.find):
                raise ModelNotFound("there is no folder of that model and version")
            return await self._load(name, version)

    async def unload(self, name: str, version: int) -> None:
        """Let no new episode begin on a version. Raises: ModelNotFound"""
        async with self._changing:
            self._unload(name, version)
            self._unloaded.add((name, version))

    async def scan(self) -> None:
        """Load what is new in the folder, and unload what has gone from it.

        A version that was refused is tried again when its files have changed. The last version of a
        model stays, even if its folder has gone: that is rather an accident than a wish.
        """
        async with self._changing:
            found = await asyncio.to_thread(self._repository.find)
            self._repository.forget_refused(found)
            loaded = {(model.name, model.version) for model in self._repository.models()}
            for key in found.keys() - loaded - self._unloaded:
                if self._tried.get(key) != found[key]:
                    self._tried[key] = found[key]
                    await self._try(*key)
            self._unload_gone(found)

    def statuses(self) -> list[ModelStatus]:
        """Every version, as `Repository.statuses`."""
        return self._repository.statuses()

    async def watch(self, every_s: float) -> None:
        """Scan again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.scan()
            except Exception:  # whatever it is, the next scan may find it mended
                logger.exception("the models' folder could not be scanned")

    async def sweep(self, every_s: float, expire: Callable[[], None]) -> None:
        """Let models go whose last episode has ended, until cancelled.

        Args:
            expire: called first; ends the episodes that have been left alone.
        """
        while True:
            await asyncio.sleep(every_s)
            expire()
            for model in self._service.drop_finished():
                logger.info("%s has left: its last episode has ended", model.label)

    async def _try(self, name: str, version: int) -> None:
        try:
            await self._load(name, version)
        except ModelInvalid as error:
            logger.error("model %s version %s refused: %s", name, version, error)

    async def _load(self, name: str, version: int) -> AgentModel:
        try:
            model = await asyncio.to_thread(self._repository.read, name, version)
        except ModelInvalid as error:
            self._repository.refuse(name, version, error)
            raise
        model = self._repository.install(model)
        self._service.add_model(model)
        self._unloaded.discard((name, version))
        logger.info("%s takes new episodes, on %s", model.label, model.provider)
        return model

    def _unload(self, name: str, version: int) -> None:
        model = self._repository.unload(name, version)
        logger.info("%s takes no new episodes", model.label)

    def _unload_gone(self, found: Container[Key]) -> None:
        for model in self._repository.models():
            others = [it for it in self._repository.models() if it.name == model.name]
            if (model.name, model.version) not in found and len(others) > 1:
                self._unload(model.name, model.version)
