"""A node that runs in parts, each process by its own command (`fvlm-node serve --only ROLE`), as containers do it."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from house import ChaosNode
from peers import Process

from node.health import ailing

PARTS = (("receiver", ""), ("reconciler", ""), ("deliver", ""), ("analyze", "1"), ("analyze", "2"))


class Part(Process):
    """One process of the node and its supervisor; ready when the health check says so."""

    def __init__(self, node: "ApartNode", role: str, name: str) -> None:
        self.node, self.role, self.name = node, role, name
        words = ["--config", str(node.config), *(["--name", name] if name else [])]
        log = node.data / "logs" / f"{role}{name}.log"
        super().__init__([*node.command[:-2], "--only", role, *words], log, node.environment)

    def ready(self) -> bool:
        return not ailing(self.node.settings, self.role, self.name)


class ApartNode(ChaosNode):
    """Two analyze workers and one process of each other role."""

    def __init__(self, folder: Path, destinations: dict[str, Any], **settings: Any) -> None:
        super().__init__(folder, destinations, **settings)
        (self.data / "logs").mkdir(parents=True)
        self.parts = {f"{role}{name}": Part(self, role, name) for role, name in PARTS}
        self._running = ExitStack()
        self.log.touch()

    def __enter__(self) -> Self:
        for part in self.parts.values():
            self._running.enter_context(part)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
