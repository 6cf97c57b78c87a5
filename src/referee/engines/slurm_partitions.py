"""The nodes that a challenge's machine types have on the cluster, asked at most once a minute."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from referee.challenge import MachineType, SlurmChoice
from referee.engines.slurm_commands import SlurmCommands, SlurmSilentError
from referee.engines.slurm_request import partition_of
from referee.errors import ConfigurationError

_FRESH_SECONDS = 60.0


class Partitions:
    """The partitions of some machine types.

    Args:
        commands: how Slurm is asked.
        choice: which partitions.
        kinds: the machine types' names; none for the cluster's, or the challenge's, default partition.
    """

    def __init__(self, commands: SlurmCommands, choice: SlurmChoice, kinds: Collection[str]) -> None:
        self._commands = commands
        wanted = {partition_of(choice, kind) for kind in kinds} or {choice.partition}
        self._names = sorted(name for name in wanted if name)
        self._with_default = None in wanted
        self._nodes: list[str] = []
        self._read_at = 0.0

    def nodes(self) -> Sequence[str]:
        """Their nodes, also those that are down for the moment.

        Raises:
            SlurmSilentError: if Slurm does not answer, and never did.
        """
        if not self._nodes or time.monotonic() > self._read_at + _FRESH_SECONDS:
            try:
                self._nodes = sorted({row["node"] for row in self._rows()})
                self._read_at = time.monotonic()
            except SlurmSilentError:
                if not self._nodes:
                    raise
        return self._nodes

    def smallest(self) -> MachineType:
        """A machine type that every node is at least.

        Raises:
            ConfigurationError: if there are no nodes.
        """
        rows = self._rows()
        if not rows:
            named = ", ".join(self._names) or "(default)"
            raise ConfigurationError(f"The partition {named} has no nodes.", hint="See `sinfo`.")
        cpus = min(int(row["cpus"]) for row in rows)
        memory_bytes = min(int(row["memory"].rstrip("+")) for row in rows) * 2**20
        return MachineType(cpus=cpus, memory=memory_bytes, reference=True)

    def _rows(self) -> list[dict[str, str]]:
        rows = self._commands.nodes(self._names) if self._names else []
        return rows + (self._commands.nodes([]) if self._with_default else [])
