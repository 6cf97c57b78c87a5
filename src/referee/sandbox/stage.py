"""Where one sandbox is put together: a tmpfs at a neutral path, visible only in the worker's mount namespace.

/run/referee/box            the stage (its paths are all that a container's mountinfo can show)
    layers/N                the image's layers, owners mapped into the sandbox's ids
    skeleton                our mount points and /etc files, topmost layer
    image                   the layers alone, to be looked at before anything is mounted in them
    upper                   size-capped tmpfs for a writable root
    data, hidden            the phase's files, and whiteouts for those that are not asked for
    runtime                 the bundle's configuration, and what the runtime keeps: closed to the sandbox's ids
    output                  the tmpfs that predictions are written to
    devices                 nodes of the GPUs that are given, in a tmpfs of their own
    root                    all of it together: what the runtime gets
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from referee.challenge.contract import SCRATCH
from referee.errors import HostError, UnsafeHostError
from referee.images.model import UnpackedImage
from referee.sandbox import kernel, mounts
from referee.sandbox.cdi import NO_EDITS, DeviceNode, Edits
from referee.sandbox.identities import SIZE, IdRange, user_namespace
from referee.sandbox.policy import SandboxPolicy
from referee.sandbox.rootfs import (
    ImageView,
    Process,
    build_skeleton,
    hide_all_but,
    make_folder,
    place_in_image,
    plan_process,
)

RUN_FOLDER = Path("/run/referee")
STAGE = RUN_FOLDER / "box"

_STAGE_BYTES = 64 * 2**20
_MOUNT_POINTS = ("/", "/etc", "/proc", "/sys", "/dev", SCRATCH)

# All that programs need of /sys to count processors (C libraries, OpenMP, BLAS); the rest tells of the host.
_SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")

_NO_PROGRAMS = mounts.SAFE | kernel.NOEXEC


class Stage:
    """The mounted parts of one sandbox. One at a time in a mount namespace."""

    def __init__(self, policy: SandboxPolicy, ids: IdRange, gpus: Edits = NO_EDITS) -> None:
        self._policy = policy
        self._ids = ids
        self._gpus = gpus
        self._files: list[tuple[Path, str]] = []  # of the host, and where they are shown

    @property
    def root(self) -> Path:
        """The root file system for the runtime."""
        return STAGE / "root"

    @property
    def runtime(self) -> Path:
        """A folder for the bundle and the runtime's own files, which ids of the sandbox cannot enter."""
        return STAGE / "runtime"

    @property
    def output(self) -> Path:
        """The output folder, from outside."""
        return STAGE / "output"

    @property
    def devices(self) -> Path:
        """A folder for the nodes of GPUs."""
        return STAGE / "devices"

    def mount(self) -> None:
        """Make the stage itself.

        Raises:
            UnsafeHostError: outside a mount namespace of our own, where mounts would outlive us.
        """
        for folder in (RUN_FOLDER, STAGE):
            make_folder(folder, 0o711)
        under = mounts.mount_over(STAGE, mounts.read_mounts())
        if under.target == str(STAGE):
            raise HostError("Another sandbox is open in this process.", hint="Use one sandbox at a time in a worker.")
        if under.shared:
            raise UnsafeHostError(
                "A sandbox may only be mounted in a private mount namespace, so that the kernel removes it with us.",
                hint="Start it through a worker, which makes one.",
            )
        mounts.tmpfs(STAGE, _STAGE_BYTES, 200_000, 0o711)
        for name in ("layers", "skeleton", "image", "upper", "data", "hidden", "output", "root", "nothing", "devices"):
            make_folder(STAGE / name, 0o755)
        make_folder(self.runtime, 0o700)

    def fill(self, image: UnpackedImage, data: Path, items: Sequence[str] | None) -> Process:
        """Mount everything, and say what is to be started.

        Raises:
            BadImageError: if the image cannot be run under the contract.
            HostError: if this machine cannot mount it.
        """
        process = self._layers(image)
        self._root_overlay(len(image.layers))
        self._memory_mounts(process)
        self._gpu_mounts()
        self._data(data, items, self._ids.host(process.uid))
        return process

    def unmount(self) -> None:
        """Take all of it away. Whatever memory it held is free once nothing uses it."""
        mounts.detach(STAGE)

    def _layers(self, image: UnpackedImage) -> Process:
        with user_namespace([(0, self._ids.base, SIZE)]) as users:
            for number, layer in enumerate(image.layers):
                place = STAGE / "layers" / str(number)
                make_folder(place, 0o755)
                self._show(layer, place, users)
        mounts.overlay(STAGE / "image", [*self._layer_places(len(image.layers)), STAGE / "nothing"])
        view = ImageView(STAGE / "image")
        try:
            process = plan_process(self._policy, image.record.config, image.record.architecture, view, self._gpus)
            folders = {*_MOUNT_POINTS, *_SYS, self._policy.data, self._policy.output, process.folder}
            self._files = [(file.source, place_in_image(view, file.path)) for file in self._gpus.files]
            links = [(place_in_image(view, path), target) for path, target in self._gpus.links]
            folders |= {path if source.is_dir() else str(Path(path).parent) for source, path in self._files}
            folders |= {str(Path(path).parent) for path, _ in links}
            build_skeleton(STAGE / "skeleton", view, sorted(folders), self._ids.base)
            for source, path in self._files:
                if not source.is_dir():
                    self._in_skeleton(path).touch()
            for path, target in links:
                if not self._in_skeleton(path).exists():
                    self._in_skeleton(path).symlink_to(target)
        finally:
            view.close()
        return process  # `image` stays mounted until the end: an unmount of its own takes a millisecond

    @staticmethod
    def _layer_places(count: int) -> list[Path]:
        return [STAGE / "layers" / str(number) for number in range(count)]

    def _show(self, source: Path, target: Path, users: int) -> None:
        try:
            mounts.mapped(source, target, users)
        except HostError:
            # Without id-mapped mounts files belong to nobody inside. That does for an unprivileged user, who needs
            # no more than what everybody may read; an image that runs as its own user would find itself locked out.
            if self._policy.keep_user:
                raise
            mounts.bind(source, target, mounts.SAFE | kernel.RDONLY)

    def _check_readable(self) -> None:
        """Where owners cannot be mapped, a file that others may not read would look like the submission's fault."""
        for path in (STAGE / "data", *(STAGE / "data").rglob("*")):
            mode = path.lstat().st_mode
            if not mode & stat.S_IROTH or (stat.S_ISDIR(mode) and not mode & stat.S_IXOTH):
                raise HostError(
                    f"The phase's file {path.name!r} cannot be read by a sandbox on this machine.",
                    hint="Give everybody the right to read the phase's data (chmod -R o+rX).",
                )

    def _root_overlay(self, count: int) -> None:
        lower = [STAGE / "skeleton", *self._layer_places(count)]
        if not self._policy.root_writable:
            mounts.overlay(self.root, lower)
            return
        mounts.tmpfs(STAGE / "upper", self._policy.scratch_bytes, self._policy.scratch_files, 0o755)
        upper, work = STAGE / "upper" / "files", STAGE / "upper" / "work"
        make_folder(upper, 0o755)
        make_folder(work, 0o755)
        above = (STAGE / "skeleton").stat()
        os.chown(upper, above.st_uid, above.st_gid)
        upper.chmod(stat.S_IMODE(above.st_mode))
        mounts.overlay(self.root, lower, upper=upper, work=work)

    def _memory_mounts(self, process: Process) -> None:
        policy, user, group = self._policy, self._ids.host(process.uid), self._ids.host(process.gid)
        sealed = _NO_PROGRAMS | kernel.NOSYMFOLLOW
        mounts.tmpfs(
            self.output, policy.output_bytes, policy.output_files + 1, 0o700, owner=user, group=group, flags=sealed
        )
        mounts.bind(self.output, self._inside(policy.output), sealed)
        root = self._ids.host(0)
        scratch = mounts.SAFE if policy.tmp_exec else _NO_PROGRAMS
        mounts.tmpfs(
            self._inside(SCRATCH), policy.scratch_bytes, policy.scratch_files, 0o1777,
            owner=root, group=root, flags=scratch,
        )  # fmt: skip
        for place in _SYS:
            if Path(place).is_dir():
                mounts.bind(Path(place), self._inside(place), _NO_PROGRAMS | kernel.RDONLY)

    def _gpu_mounts(self) -> None:
        for source, path in self._files:
            mounts.bind(source, self._inside(path), mounts.SAFE | kernel.RDONLY)
        if not self._gpus.nodes:
            return
        # Nodes of our own: with the host's, a sandbox would depend on modes and owners that others change.
        kernel.mount("tmpfs", self.devices, "tmpfs", kernel.NOSUID | kernel.NOEXEC, "size=65536,mode=755")
        for node in self._gpus.nodes:
            place = self.node(node)
            os.mknod(place, stat.S_IFCHR, os.makedev(node.major, node.minor))
            place.chmod(0o666)

    def node(self, node: DeviceNode) -> Path:
        """Our own node for one of the GPUs' devices."""
        return self.devices / node.path.strip("/").replace("/", "-")

    def _in_skeleton(self, path: str) -> Path:
        return STAGE / "skeleton" / path.lstrip("/")

    def _data(self, data: Path, items: Sequence[str] | None, user: int) -> None:
        # Whoever owns the data on disk appears as the sandbox's user, so that files with mode 0600 can be read.
        with user_namespace([(data.stat().st_uid, user, 1)]) as owners:
            self._show(data, STAGE / "data", owners)
        if (STAGE / "data").stat().st_uid != user:
            self._check_readable()
        os.chown(STAGE / "hidden", user, user)
        if items is not None:
            hide_all_but(STAGE / "hidden", STAGE / "data", items)
        flags = _NO_PROGRAMS | kernel.NOATIME
        mounts.overlay(self._inside(self._policy.data), [STAGE / "hidden", STAGE / "data"], flags=flags)

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")
