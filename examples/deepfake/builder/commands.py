"""Running other programs so that none outlives the build: not after an error, Ctrl-C, or SIGKILL of the build."""

import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

TOOLS = ("buildah", "skopeo", "mmdebstrap", "unshare", "setpriv")

_running: set[subprocess.Popen[str]] = set()
_guard = threading.Lock()
_stopped = threading.Event()


class CommandError(RuntimeError):
    """A program ended with a status other than 0; the message holds the end of what it printed."""


def missing_tools() -> list[str]:
    """Names of system tools that the build needs and this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return what it printed to its standard output.

    Raises:
        CommandError: when its exit status is not 0, or when the build is being stopped.
    """
    # The kernel kills the child when the thread that started it ends, however that comes about.
    command = ["setpriv", "--pdeathsig", "KILL", "--", *map(str, argv)]
    with _guard:
        if _stopped.is_set():
            raise CommandError("the build is being stopped")
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        _running.add(process)
    try:
        out, err = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        with _guard:
            _running.discard(process)
    if process.returncode != 0:
        raise CommandError(f"{' '.join(command[4:7])} ... ended with {process.returncode}: {(err or out)[-2000:]}")
    return out


def contained(argv: Sequence[str | Path], *, network: bool = False) -> list[str | Path]:
    """Wrap a command in namespaces of its own: its mounts and all its processes vanish with it.

    Without `network` it also sees no network, so that nothing in an image's build depends on one.
    """
    apart = ["--net"] if not network else []
    return [
        "unshare", "--mount", "--propagation", "private", *apart, "--ipc", "--pid", "--fork",
        "--kill-child=KILL", "--mount-proc", "--", *argv,
    ]  # fmt: skip


def stop_all() -> None:
    """Kill every program that is still running, and let none be started any more."""
    _stopped.set()
    with _guard:
        for process in _running:
            process.kill()
