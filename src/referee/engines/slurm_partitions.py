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
        self._commands, self._choice = commands, choice
        wanted = {partition_of(choice, kind) for kind in kinds} or {choice.partition}
        self._names = sorted(name for name in wanted if name)
        self._with_default = None in wanted
        self._partitions_of: dict[str, set[str]] = {}  # by node
        self._read_at = 0.0

    def nodes(self) -> Sequence[str]:
        """Their nodes, also those that are down for the moment.

        Raises:
            SlurmSilentError: if Slurm does not answer, and never did.
        """
        if not self._partitions_of or time.monotonic() > self._read_at + _FRESH_SECONDS:
            try:
                rows = self._rows()
            except SlurmSilentError:
                if not self._partitions_of:
                    raise
            else:
                found: dict[str, set[str]] = {}
                for row in rows:
                    found.setdefault(row["node"], set()).add(row["partition"])
                self._partitions_of, self._read_at = found, time.monotonic()
        return sorted(self._partitions_of)

    def nodes_of(self, kind: str) -> Sequence[str]:
        """Those of a machine type's partition; a constraint may leave fewer of them.

        Raises:
            SlurmSilentError: as `nodes`.
        """
        partition = partition_of(self._choice, kind)
        return [node for node in self.nodes() if any(_is(name, partition) for name in self._partitions_of[node])]

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


def _is(shown: str, partition: str | None) -> bool:
    """Whether sinfo shows this partition so: it marks the cluster's default one with a star."""
    return shown.endswith("*") if partition is None else shown.rstrip("*") == partition
