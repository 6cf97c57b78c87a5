"""What jobs print, in the shared folder: the last words of a job that left no result, kept for as long as they serve.

The log of a job that ended in order is removed when that is seen. Of the others the newest 200 are kept, for thirty
days at most.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from referee.engines.slurm_states import Child

MOST_KEPT = 200
LONGEST_KEPT_SECONDS = 30 * 86400.0

_SAID_BYTES = 2000


class JobLogs:
    """The logs of all jobs of a challenge.

    Args:
        folder: in what the nodes share.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def pattern(self, wave: str) -> Path:
        """Where the children of a wave print to, as sbatch wants it said."""
        return self._folder / f"{wave}.%a.log"

    def exists(self, child: Child) -> bool:
        """Whether the job began: its log is opened before anything else."""
        return self._log(child).exists()

    def last_words(self, child: Child) -> str:
        """The last line that the job printed: why no worker could be had, for instance."""
        try:
            text = self._log(child).read_bytes()[-_SAID_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"The job's last words: {lines[-1]}" if lines else ""

    def remove(self, child: Child) -> None:
        """Forget what the job printed."""
        with contextlib.suppress(OSError):
            self._log(child).unlink()

    def sweep(self, open_children: Collection[Child]) -> None:
        """Remove what is empty, too old or too much, but nothing of jobs that have not ended."""
        in_use = {self._log(child).name for child in open_children}
        kept = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".log") and entry.name not in in_use:
                    facts = entry.stat(follow_symlinks=False)
                    kept.append((facts.st_mtime if facts.st_size else 0.0, Path(entry.path)))
        oldest = time.time() - LONGEST_KEPT_SECONDS
        kept.sort(reverse=True)
        for position, (changed_at, path) in enumerate(kept):
            if position >= MOST_KEPT or changed_at < oldest:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _log(self, child: Child) -> Path:
        return self._folder / f"{child.wave}.{child.index}.log"
