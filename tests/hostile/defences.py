"""The defences, each as the way to switch it off: changes to the generated bundle, or to functions of the product.

A defence is switched off in the worker's own process only, after the fork, so that nothing has to be put back. Where
several layers stand behind each other (a filter, no capabilities, a user namespace), one that is switched off alone
lets nothing through; then they are switched off together, and the name says so.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundle_changes import Change, all_devices, allow, no_filter, put, without_namespace
from referee.images import compression, layer, store
from referee.sandbox import box, cgroups, harvest, kernel, log, mounts, rootfs, stage
from referee.sandbox.identities import FIRST_HOST_ID, IdRange
from referee.worker import run

Patch = Callable[[], None]


def _configured(*changes: Change) -> Patch:
    def patch() -> None:
        real = box.runtime_configuration

        def configuration(*arguments: Any, **rest: Any) -> dict[str, Any]:
            config = real(*arguments, **rest)
            for change in changes:
                change(config)
            return config

        box.runtime_configuration = configuration  # type: ignore[assignment]

    return patch


def _both(*patches: Patch) -> Patch:
    def patch() -> None:
        for each in patches:
            each()

    return patch


def _capable(config: dict[str, Any]) -> None:
    names = ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"]
    kinds = ("bounding", "effective", "inheritable", "permitted", "ambient")
    config["process"]["capabilities"] = dict.fromkeys(kinds, names)


def _without(*path: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        place = config
        for key in path[:-1]:
            place = place[key]
        place.pop(path[-1], None)

    return change


def _no_rlimits(config: dict[str, Any]) -> None:
    config["process"]["rlimits"] = []


def _rlimit_off(name: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["process"]["rlimits"] = [r for r in config["process"]["rlimits"] if r["type"] != name]

    return change


def _mount_option(destination: str, *options: str) -> Change:
    """Give one of the bundle's mounts more room."""

    def change(config: dict[str, Any]) -> None:
        for mount in config["mounts"]:
            if mount["destination"] == destination:
                names = {option.partition("=")[0] for option in options}
                mount["options"] = [o for o in mount["options"] if o.partition("=")[0] not in names] + list(options)

    return change


def _proc_of_the_worker(config: dict[str, Any]) -> None:
    # A /proc of its own can only be mounted with a pid namespace of its own.
    config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
    for mount in config["mounts"]:
        if mount["destination"] == "/proc":
            mount |= {"type": "bind", "source": "/proc", "options": ["rbind", "ro", "nosuid", "nodev", "noexec"]}


def _shared_shm(config: dict[str, Any]) -> None:
    place = Path(tempfile.gettempdir(), "hostile-shared-shm")
    for mount in config["mounts"]:
        if mount["destination"] == "/dev/shm":
            mount |= {"type": "bind", "source": str(place), "options": ["bind", "rw"]}


def _make_shared() -> None:
    place = Path(tempfile.gettempdir(), "hostile-shared-shm")
    place.mkdir(exist_ok=True)
    place.chmod(0o1777)


def _plain_data() -> None:
    stage.Stage._data = lambda self, data, items, user: mounts.bind(data, self._inside("/data"), 0)  # type: ignore[method-assign, misc]


def _whole_challenge() -> None:
    # The folder above the phase's data, which has the labels.
    stage.Stage._data = lambda self, data, items, user: mounts.bind(data.parent, self._inside("/data"), 0)  # type: ignore[method-assign, misc]


def _large_tmpfs() -> None:
    real = mounts.tmpfs
    mounts.tmpfs = lambda t, size, inodes, mode, **rest: real(t, 64 << 20, 20_000, mode, **rest)


def _kept_scratch() -> None:
    place = Path(tempfile.gettempdir(), "hostile-kept-scratch")
    place.mkdir(exist_ok=True)
    place.chmod(0o1777)
    real = mounts.tmpfs

    def tmpfs(target: Path, size: int, inodes: int, mode: int, **rest: Any) -> None:
        if mode == 0o1777:
            mounts.bind(place, target, 0)
        else:
            real(target, size, inodes, mode, **rest)

    mounts.tmpfs = tmpfs


def _late() -> None:
    real = log.LogPipe.pump
    log.LogPipe.pump = lambda self, process, deadline: real(self, process, deadline + 1.5)  # type: ignore[method-assign]


def _endless_log() -> None:
    real = log.LogPipe.__init__

    def init(self: Any, policy: Any) -> None:
        real(self, replace(policy, log_bytes=1 << 40, flood_bytes=1 << 40))

    log.LogPipe.__init__ = init  # type: ignore[method-assign]


def _forgeable_status() -> None:
    real = cgroups.Leaf.usage
    status: list[int] = []
    reap = box.Box._reap

    def reaped(self: Any) -> Any:
        found = reap(self)
        status.append(found.si_status)
        return found

    box.Box._reap = reaped  # type: ignore[method-assign]
    cgroups.Leaf.usage = lambda self, *seen: replace(real(self, *seen), oom_kills=int(status[-1:] in ([137], [9])))  # type: ignore[method-assign]


def _trusting_harvest() -> None:
    def naive(folder: Path, name: str, limit_bytes: int) -> bytes | harvest.Refusal:
        try:
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return harvest.Refusal("missing", "There is none.")
        try:
            return os.read(descriptor, 1 << 26)
        except OSError:
            return harvest.Refusal("unreadable", "It cannot be read.")
        finally:
            os.close(descriptor)

    box.harvest = naive  # type: ignore[attr-defined]
    stage._NO_PROGRAMS = kernel.NOSUID
    kernel.NOSYMFOLLOW = 0


def _early_harvest() -> None:
    """Processes live on while the output is read."""
    _configured(without_namespace("pid"), _proc_of_the_worker)()
    cgroups.Leaf.kill = lambda self, seconds=5.0: True  # type: ignore[method-assign]
    cgroups.Leaf.processes = lambda self: []  # type: ignore[method-assign]
    real = box.harvest  # type: ignore[attr-defined]

    def slow(folder: Path, name: str, limit_bytes: int) -> Any:
        seen = {real(folder, name, limit_bytes) for _ in range(2000)}
        return b"swapped" if len(seen) > 1 else seen.pop()

    box.harvest = slow  # type: ignore[attr-defined]


def _loose_reader() -> None:
    """The last of doubled names wins, numbers are what `float` takes, and the rest is guessed."""

    def lenient(content: bytes, expected: Any, form: Any, **rest: Any) -> Any:
        class Accepted:
            rows = 3

        return Accepted()

    run.read_predictions = lenient


def _keep_nodes_and_bits() -> None:
    """The image's device nodes and set-user-id bits, as a plain unpacker would lay them out."""
    fill = stage.Stage.fill

    def filled(self: Any, image: Any, data: Any, items: Any) -> Any:
        extra = stage.STAGE / "as-packed"
        (extra / "nodes").mkdir(parents=True)
        (extra / "usr/bin").mkdir(parents=True)
        for folder in (extra, *extra.rglob("*")):
            folder.chmod(0o755)
        os.mknod(extra / "nodes/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        (extra / "nodes/zero").chmod(0o666)
        program = extra / "usr/bin/id-rooted"
        program.write_bytes(Path("/usr/bin/id").read_bytes())
        program.chmod(0o4755)
        return fill(self, replace(image, layers=(extra, *image.layers)), data, items)

    stage.Stage.fill = filled  # type: ignore[method-assign]


def _trusting_mounts() -> None:
    safe = kernel.NOSUID | kernel.NODEV
    mounts.SAFE = 0
    real, attach = mounts.overlay, kernel.attach_clone
    mounts.overlay = lambda t, lower, **rest: real(t, lower, **(rest | {"flags": rest.get("flags", 0) & ~safe}))
    kernel.attach_clone = lambda source, target, attributes, users: attach(
        source, target, kernel.ATTRIBUTE_RDONLY, users
    )


def _any_folder() -> None:
    rootfs._working_folder = lambda folder, policy, view: folder or "/"


def _links_followed() -> None:
    real = rootfs.ImageView.folders_to

    def folders_to(self: Any, path: str) -> list[os.stat_result]:
        try:
            return real(self, path)
        except rootfs.BadImageError:
            return [os.fstat(self._root)]

    rootfs.ImageView.folders_to = folders_to  # type: ignore[method-assign]


def _any_program() -> None:
    rootfs._check_program = lambda *_: None


def _telling() -> None:
    run._printable = lambda text: text
    real = run._check

    def check(seen: Any, left: Any, spec: Any, data: Any) -> Any:
        found, rows = real(seen, left, spec, data)
        words = left.decode(errors="replace")[:200] if isinstance(left, bytes) else ""
        return replace(found, problem=found.problem + words), rows

    run._check = check


def _writable_root() -> None:
    real = mounts.overlay

    def writable(target: Path, lower: Any, **rest: Any) -> None:
        if rest.get("upper") is None and target.name not in {"image", "data"}:
            place = stage.STAGE / f"upper-{target.name}"
            for name in ("files", "work"):
                (place / name).mkdir(parents=True)
                (place / name).chmod(0o777)
            rest |= {"upper": place / "files", "work": place / "work"}
        real(target, lower, **rest)

    mounts.overlay = writable


def _same_ids() -> None:
    @contextmanager
    def claim(_: Path) -> Iterator[IdRange]:
        yield IdRange(FIRST_HOST_ID)

    box.claim_ids = claim  # type: ignore[assignment]


def _unlimited_sockets() -> None:
    cgroups.Leaf.limit_sockets = lambda self: None  # type: ignore[method-assign]


def _kept_root() -> None:
    real = mounts.tmpfs
    place = Path(tempfile.gettempdir(), "hostile-kept-root")
    place.mkdir(exist_ok=True)

    def tmpfs(target: Path, size: int, inodes: int, mode: int, **rest: Any) -> None:
        if target.name == "upper":
            mounts.bind(place, target, 0)
        else:
            real(target, size, inodes, mode, **rest)

    mounts.tmpfs = tmpfs


def _no_layer_limit() -> None:
    real = compression.Counted.__init__
    compression.Counted.__init__ = lambda self, source, limit_bytes: real(self, source, 1 << 40)  # type: ignore[method-assign]
    check = store.ImageStore._check_layers

    def unlimited(self: Any, *arguments: Any) -> Any:
        self._limit_bytes = 1 << 40
        return check(self, *arguments)

    store.ImageStore._check_layers = unlimited  # type: ignore[method-assign]


def _any_path() -> None:
    layer.plain_path = lambda name: name.lstrip(b"./")  # as archivers do that mend a name instead of refusing it


def _no_tree() -> None:
    layer._Tree.place = lambda self, path, action: None  # type: ignore[method-assign]


def _by_tag() -> None:
    """Blobs are found by the name that they were imported under, which somebody else may use again."""
    real = store.ImageStore._keep

    def keep(self: Any, path: Path, target: Path) -> None:
        real(self, path, target)
        if target.parent == self._blobs:
            shutil.copyfile(path, target.parent / "latest")

    store.ImageStore._keep = keep  # type: ignore[method-assign]
    store.ImageStore.blob_path = lambda self, digest: self._blobs / "latest"  # type: ignore[method-assign]


_LOOSE_NODES = _both(_configured(all_devices), _keep_nodes_and_bits, _trusting_mounts)
_LOOSE_BITS = _both(_configured(put(False, "process", "noNewPrivileges")), _keep_nodes_and_bits, _trusting_mounts)
_FILTERED = {
    "filter of vsock, netlink and other sockets": ("socket", "socketpair"),
    "filter of rings": ("io_uring_setup",),
    "filter of keyrings": ("keyctl", "add_key", "request_key"),
    "filter of tracing": ("ptrace", "process_vm_readv", "pidfd_getfd"),
    "filter of namespaces": ("unshare", "clone", "clone3", "setns"),
    "filter of personality": ("personality",),
    "filter of inotify": ("inotify_init", "inotify_init1"),
    "filter of asynchronous input and output": ("io_setup",),
    "filter of message queues": ("mq_open",),
}

DEFENCES: dict[str, Patch] = {
    "network namespace": _configured(without_namespace("network")),
    "pid namespace": _configured(without_namespace("pid"), _proc_of_the_worker),
    "ipc namespace": _configured(without_namespace("ipc")),
    "cgroup namespace": _configured(without_namespace("cgroup")),
    "host name": _configured(put("host-17", "hostname")),
    "environment": _configured(lambda c: c["process"]["env"].append(f"AGENT={os.environ.get('HOSTILE_CANARY')}")),
    "set-user-id: no new privileges, nosuid, unpacking": _LOOSE_BITS,
    "device nodes: device cgroup, nodev, unpacking": _LOOSE_NODES,
    "capabilities": _configured(_capable),
    "capabilities and filter": _configured(_capable, no_filter),
    "filter": _configured(no_filter),
    **{name: _configured(allow(*calls)) for name, calls in _FILTERED.items()},
    "overlay of the data and filter of inotify": _both(
        _plain_data, _configured(allow("inotify_init1", "inotify_add_watch"))
    ),
    "ipc namespace and filter of message queues": _configured(without_namespace("ipc"), allow("mq_open")),
    "memory of sockets": _unlimited_sockets,
    "masked files": _configured(put([], "linux", "maskedPaths")),
    "read-only /proc/sys and capabilities": _configured(put([], "linux", "readonlyPaths"), _capable),
    "read-only root": _both(_configured(put(False, "root", "readonly")), _writable_root),
    "root thrown away": _kept_root,
    "overlay of the data": _plain_data,
    "only the phase's folder": _whole_challenge,
    "own /dev/shm": _both(_make_shared, _configured(_shared_shm)),
    "scratch of its own": _kept_scratch,
    "ids of its own and filter of keyrings": _both(_same_ids, _configured(allow("keyctl", "add_key", "request_key"))),
    "memory limit": _configured(put({"limit": 2**30}, "linux", "resources", "memory")),
    "cpu limit": _configured(_without("linux", "resources", "cpu")),
    "pids limit": _configured(_without("linux", "resources", "pids"), _no_rlimits),
    "room of output and scratch": _both(_large_tmpfs, _configured(_no_rlimits)),
    "room of /dev/shm": _configured(_mount_option("/dev/shm", "size=67108864"), _no_rlimits),
    "number of terminals": _configured(_mount_option("/dev/pts", "max=4096")),
    "open files": _configured(_rlimit_off("RLIMIT_NOFILE")),
    "pending signals": _configured(_rlimit_off("RLIMIT_SIGPENDING")),
    "core files": _configured(_rlimit_off("RLIMIT_CORE")),
    "wall time": _late,
    "log cap": _endless_log,
    "verdict by the kernel's counter": _forgeable_status,
    "careful harvest": _trusting_harvest,
    "careful harvest and file size": _both(_trusting_harvest, _configured(_rlimit_off("RLIMIT_FSIZE"))),
    "harvest after the end": _early_harvest,
    "strict reader": _loose_reader,
    "plain words": _telling,
    "working folder and plain mount points": _both(_any_folder, _links_followed),
    "plain mount points": _links_followed,
    "entrypoint looked at": _any_program,
    "limit of unpacking": _no_layer_limit,
    "plain paths of layers": _any_path,
    "folders are no links in layers": _no_tree,
    "blobs by digest": _by_tag,
}
