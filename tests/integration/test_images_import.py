"""Images come in through skopeo from every source; what lies, bursts or reaches out is refused and leaves nothing."""

from __future__ import annotations

import gzip
import http.server
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from image_layouts import (
    LAYER_TYPE,
    MANIFEST_TYPE,
    Layout,
    configuration,
    digest,
    entry,
    layout,
    pack,
    squeeze,
    tar,
)
from referee.errors import ImageError, RefereeError
from referee.images.model import ImageRecord
from referee.images.store import ImageStore, ImportProgress
from referee.images.supply import ObjectImages
from referee.objects import ObjectStore

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")

_BASE = tar(entry("bin", tarfile.DIRTYPE), ("bin/run", b"#!/bin/sh\n"), ("etc/base", b"base" * 1000))
_TOP = tar(("app/model", bytes(range(256)) * 400), entry("etc/.wh.base"))
_LIMIT_BYTES = 4 << 20


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "objects", limit_bytes=_LIMIT_BYTES, architecture="amd64")


def _skopeo(*arguments: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", *arguments], check=True, timeout=120)


def _left(tmp_path: Path) -> list[str]:
    """Every file in the object store, but for the lock between importing and pruning."""
    root = tmp_path / "objects"
    files = (path.relative_to(root) for path in root.rglob("*") if not path.is_dir())
    return sorted(str(path) for path in files if path != Path("images.lock"))


def _as_oci_folder(honest: Path, folder: Path) -> str:
    return f"oci:{honest}"


def _as_bare_folder(honest: Path, folder: Path) -> str:
    return str(honest)


def _as_oci_archive(honest: Path, folder: Path) -> str:
    return str(pack(honest, folder / "image: a colon.tar"))


def _as_docker_archive(honest: Path, folder: Path) -> str:
    _skopeo(f"oci:{honest}", f"docker-archive:{folder}/docker.tar:localhost/team:1")
    return f"docker-archive:{folder}/docker.tar"


def _as_bare_docker_archive(honest: Path, folder: Path) -> str:
    made = Path(_as_docker_archive(honest, folder).removeprefix("docker-archive:"))
    return str(made.rename(folder / "docker: a colon.tar"))


def _as_squeezed_docker_archive(honest: Path, folder: Path) -> str:
    plain = Path(_as_bare_docker_archive(honest, folder))
    (folder / "docker.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    return str(folder / "docker.tar.gz")


def _as_stored_image(honest: Path, folder: Path) -> str:
    place = f"containers-storage:[vfs@{folder}/root+{folder}/run]localhost/team:1"
    _skopeo(f"oci:{honest}", place)
    return place


@pytest.mark.parametrize(
    "form",
    [
        _as_oci_folder,
        _as_bare_folder,
        _as_oci_archive,
        _as_docker_archive,
        _as_bare_docker_archive,
        _as_squeezed_docker_archive,
        pytest.param(_as_stored_image, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")),
    ],
)
def test_every_source_gives_the_same_content(
    form: Callable[[Path, Path], str], store: ImageStore, tmp_path: Path
) -> None:
    honest = layout(tmp_path / "honest", _BASE, _TOP, Env=["A=b"], WorkingDir="/app", User="1000:1000")
    record = store.import_image(form(honest, tmp_path))
    assert record.diff_ids == (digest(_BASE), digest(_TOP))
    assert record.unpacked_bytes == len(_BASE) + len(_TOP)
    assert record.config.command == ("/bin/run",)
    assert record.config.environment == ("A=b",)
    assert (record.config.working_folder, record.config.user) == ("/app", "1000:1000")
    assert store.get(record.digest) == record
    assert store.records() == [record]
    for blob in (record.digest, record.config_digest, *record.layers):
        assert digest(store.blob_path(blob).read_bytes()) == blob
    assert not any(name.startswith("imports/") for name in _left(tmp_path))


@pytest.mark.parametrize("squeezed", [True, False])
def test_an_oci_image_keeps_its_digest(squeezed: bool, store: ImageStore, tmp_path: Path) -> None:
    honest = tmp_path / "honest"
    made = Layout(honest)
    kind = LAYER_TYPE if squeezed else LAYER_TYPE.removesuffix("+gzip")
    made.image(configuration([_BASE]), [made.put(squeeze(_BASE) if squeezed else _BASE, kind)])
    stated = json.loads((honest / "index.json").read_text())["manifests"][0]["digest"]
    assert store.import_image(str(honest)).digest == stated


def test_a_layer_is_stored_once_and_an_image_keeps_its_first_record(store: ImageStore, tmp_path: Path) -> None:
    first = store.import_image(str(layout(tmp_path / "one", _BASE, _TOP)))
    again = store.import_image(str(layout(tmp_path / "same", _BASE, _TOP)))
    other = store.import_image(str(layout(tmp_path / "other", _BASE)))
    assert again == first
    assert other.layers == first.layers[:1]
    assert len([name for name in _left(tmp_path) if name.startswith("blobs/")]) == 2 + 2 + 2
    assert len(store.records()) == 2


def test_progress_is_told(store: ImageStore, tmp_path: Path) -> None:
    seen: list[ImportProgress] = []
    store.import_image(str(layout(tmp_path / "one", _BASE)), progress=seen.append)
    assert {each.stage for each in seen} == {"copying", "checking"}
    assert seen[-1].done_bytes == seen[-1].total_bytes


def test_what_docker_alone_knows_is_found(store: ImageStore, tmp_path: Path) -> None:
    config = configuration(
        [_BASE],
        Healthcheck={"Test": ["CMD", "true"]},
        OnBuild=["RUN evil"],
        Volumes={"/data": {}},
        StopSignal="SIGUSR1",
        ExposedPorts={"80/tcp": {}},
    )
    _docker_archive(tmp_path / "d.tar", config, [_BASE], ["localhost/x:1"])
    findings = " ".join(store.import_image(f"{tmp_path}/d.tar").findings)
    for word in ("HEALTHCHECK", "ONBUILD", "VOLUME", "STOPSIGNAL", "EXPOSE", "USER is root"):
        assert word in findings


def _docker_archive(path: Path, config: dict[str, Any], layers: list[bytes], tags: list[str]) -> None:
    body = json.dumps(config).encode()
    name = digest(body).removeprefix("sha256:") + ".json"
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": name, "RepoTags": tags, "Layers": names}]).encode()
    path.write_bytes(tar((name, body), *zip(names, layers, strict=True), ("manifest.json", manifest)))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("podman") is None, reason="needs root and podman")
def test_an_archive_cannot_take_another_images_tag(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = layout(tmp_path / "victim", _BASE)
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/root"\nrunroot = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))

    def images() -> str:
        listed = subprocess.run(
            ["podman", "images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return listed.stdout

    _skopeo(f"oci:{victim}", "containers-storage:localhost/base:1")
    before = images()
    assert "localhost/base:1" in before
    mine = store.import_image("localhost/base:1")
    _docker_archive(tmp_path / "thief.tar", configuration([_TOP]), [_TOP], ["localhost/base:1", "victim:latest"])
    stolen = store.import_image(f"{tmp_path}/thief.tar")
    assert images() == before
    assert stolen.diff_ids == (digest(_TOP),)
    assert store.get(mine.digest) == mine
    assert mine.diff_ids == (digest(_BASE),)


def _lying_digest(made: Layout) -> None:
    blob = made.put(squeeze(_BASE), LAYER_TYPE)
    made.image(configuration([_BASE]), [blob])
    (made.blobs / blob["digest"][7:]).write_bytes(squeeze(_BASE)[:-1] + b"x")


def _lying_size(made: Layout) -> None:
    made.image(configuration([_BASE]), [made.put(squeeze(_BASE), LAYER_TYPE, size=17)])


def _lying_content(made: Layout) -> None:
    made.image(configuration([_BASE]), [made.put(squeeze(_TOP), LAYER_TYPE)])


def _missing_layer(made: Layout) -> None:
    blob = made.put(squeeze(_BASE), LAYER_TYPE)
    made.image(configuration([_BASE]), [blob])
    (made.blobs / blob["digest"][7:]).unlink()


def _fewer_layers(made: Layout) -> None:
    made.image(configuration([_BASE, _TOP]), [made.put(squeeze(_BASE), LAYER_TYPE)])


def _no_json(made: Layout) -> None:
    made.index({"manifests": [made.put(b"{" * 100_000, MANIFEST_TYPE)]})


def _twice_the_same_key(made: Layout) -> None:
    blob = made.put(squeeze(_BASE), LAYER_TYPE)
    config = json.dumps(configuration([_BASE]))[:-1] + ', "os": "linux"}'
    described = made.put(config.encode(), "application/vnd.oci.image.config.v1+json")
    body = {"schemaVersion": 2, "config": described, "layers": [blob]}
    made.index({"schemaVersion": 2, "manifests": [made.put(json.dumps(body).encode(), MANIFEST_TYPE)]})


def _huge_manifest(made: Layout) -> None:
    made.image(configuration([_BASE]), [made.put(squeeze(_BASE), LAYER_TYPE)], annotations={"a": "x" * (5 << 20)})


def _too_many_layers(made: Layout) -> None:
    layers = [tar((str(number), b"x")) for number in range(121)]
    made.image(configuration(layers), [made.put(squeeze(layer), LAYER_TYPE) for layer in layers])


def _another_architecture(made: Layout) -> None:
    made.image(configuration([_BASE]) | {"architecture": "arm64"}, [made.put(squeeze(_BASE), LAYER_TYPE)])


def _another_system(made: Layout) -> None:
    made.image(configuration([_BASE]) | {"os": "windows"}, [made.put(squeeze(_BASE), LAYER_TYPE)])


def _only_another_architecture(made: Layout) -> None:
    _another_architecture(made)
    described = json.loads((made.folder / "index.json").read_text())["manifests"][0]
    inner = {"schemaVersion": 2, "manifests": [described | {"platform": {"os": "linux", "architecture": "arm64"}}]}
    kind = "application/vnd.oci.image.index.v1+json"
    made.index({"schemaVersion": 2, "manifests": [made.put(json.dumps(inner).encode(), kind)]})


def _nothing_to_run(made: Layout) -> None:
    made.image(configuration([_BASE], Cmd=None), [made.put(squeeze(_BASE), LAYER_TYPE)])


def _working_folder_of_a_known_escape(made: Layout) -> None:
    config = configuration([_BASE], WorkingDir="/proc/self/fd/7")
    made.image(config, [made.put(squeeze(_BASE), LAYER_TYPE)])


def _traversal(made: Layout) -> None:
    layer = tar(("../../../../etc/cron.d/x", b"evil"))
    made.image(configuration([layer]), [made.put(squeeze(layer), LAYER_TYPE)])


def _bomb(made: Layout) -> None:
    layer = tar(("zeros", bytes(64 << 20)))
    made.image(configuration([layer]), [made.put(squeeze(layer, 9), LAYER_TYPE)])


def _bomb_of_layers(made: Layout) -> None:
    layers = [tar((str(number), bytes(3 << 20))) for number in range(2)]
    made.image(configuration(layers), [made.put(squeeze(layer, 9), LAYER_TYPE) for layer in layers])


def _linked_blob(made: Layout) -> None:
    blob = made.put(squeeze(_BASE), LAYER_TYPE)
    made.image(configuration([_BASE]), [blob])
    path = made.blobs / blob["digest"][7:]
    path.rename(made.folder / "elsewhere")
    path.symlink_to(made.folder / "elsewhere")


def _fifo_blob(made: Layout) -> None:
    _missing_layer(made)
    os.mkfifo(made.blobs / ("0" * 64))


def _no_image(made: Layout) -> None:
    pass


def _two_images(made: Layout) -> None:
    first = made.image(configuration([_BASE]), [made.put(squeeze(_BASE), LAYER_TYPE)])
    second = made.image(configuration([_TOP]), [made.put(squeeze(_TOP), LAYER_TYPE)])
    made.index({"schemaVersion": 2, "manifests": [first, second]})


_LIES: list[tuple[Callable[[Layout], None], str]] = [
    (_lying_digest, "skopeo copy failed|not what its digest|gzip stream is broken"),
    (_lying_size, "skopeo copy failed|not what its digest and size"),
    (_lying_content, "lies about the content"),
    (_missing_layer, "skopeo copy failed"),
    (_fewer_layers, "lies about the content"),
    (_no_json, "not valid JSON"),
    (_twice_the_same_key, "a key is there twice"),
    (_huge_manifest, "larger than"),
    (_too_many_layers, "at most 120"),
    (_another_architecture, r'for "linux" on "arm64"'),
    (_another_system, 'for "windows"'),
    (_only_another_architecture, "skopeo copy failed"),
    (_nothing_to_run, "neither an ENTRYPOINT nor a CMD"),
    (_working_folder_of_a_known_escape, "WORKDIR"),
    (_traversal, "leads outside"),
    (_bomb, "more than the limit of 4 MiB"),
    (_bomb_of_layers, "more than"),
    (_linked_blob, "not a plain file"),
    (_fifo_blob, "not a plain file"),
    (_no_image, "skopeo copy failed|no image"),
    (_two_images, "TAG"),
]


@pytest.mark.parametrize("archived", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize(("lie", "reason"), _LIES, ids=[lie.__name__[1:] for lie, _ in _LIES])
def test_a_hostile_layout_is_refused_and_leaves_nothing(
    lie: Callable[[Layout], None], reason: str, archived: bool, store: ImageStore, tmp_path: Path
) -> None:
    lie(Layout(tmp_path / "hostile"))
    if archived and lie in (_linked_blob, _fifo_blob):
        reason = "skopeo copy failed|device or a FIFO"
    source = str(pack(tmp_path / "hostile", tmp_path / "hostile.tar") if archived else tmp_path / "hostile")
    with pytest.raises(ImageError, match=reason) as caught:
        store.import_image(source)
    assert caught.value.hint
    assert _left(tmp_path) == []


@pytest.mark.parametrize("kind", ["manifest", "config", "layer"])
def test_what_skopeo_wrote_is_not_believed(
    kind: str, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = layout(tmp_path / "honest", _BASE)
    manifest = json.loads((honest / "index.json").read_text())["manifests"][0]["digest"]
    stated = json.loads((honest / "blobs" / "sha256" / manifest[7:]).read_bytes())
    wrong = {"manifest": manifest, "config": stated["config"]["digest"], "layer": stated["layers"][0]["digest"]}[kind]
    skopeo = tmp_path / "programs" / "skopeo"
    skopeo.parent.mkdir()
    skopeo.write_text(
        f'#!/bin/sh\n{shutil.which("skopeo")} "$@" || exit\n'
        f"for last; do :; done; place=${{last#oci:}}; place=${{place%:image}}\n"
        f"printf ' ' >> $place/blobs/sha256/{wrong[7:]}\n"
    )
    skopeo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{skopeo.parent}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match=r"not what its digest|gzip stream ends too early"):
        store.import_image(str(honest))
    assert _left(tmp_path) == []


def test_no_address_of_a_manifest_is_fetched(store: ImageStore, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/layer"
        made = Layout(tmp_path / "hostile")
        kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        blob = made.put(squeeze(_BASE), kind, urls=[url])
        made.image(configuration([_BASE]), [blob])
        (made.blobs / blob["digest"][7:]).unlink()
        with pytest.raises(ImageError, match="addresses"):
            store.import_image(str(tmp_path / "hostile"))
        with pytest.raises(TimeoutError):
            listener.accept()
    assert _left(tmp_path) == []


def _archive_of_a_squeezed_layer(path: Path) -> None:
    layer = tar(("zeros", bytes(64 << 20)))
    _docker_archive(path, configuration([layer]), [squeeze(layer, 9)], ["x:1"])


def _squeezed_archive(path: Path) -> None:
    path.write_bytes(gzip.compress(tar(("zeros", bytes(64 << 20)))))


def _archive_with_a_device(path: Path) -> None:
    path.write_bytes(tar(entry("manifest.json", tarfile.BLKTYPE)))


def _archive_that_leads_outside(path: Path) -> None:
    path.write_bytes(tar(("../oci-layout", b""), ("index.json", b"")))


def _archive_of_many_entries(path: Path) -> None:
    path.write_bytes(tar(*(entry(str(number)) for number in range(10_001)), form=tarfile.GNU_FORMAT))


def _exported_root(path: Path) -> None:
    path.write_bytes(_BASE)


def _not_an_archive(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(4096))


def _squeezed_with_xz(path: Path) -> None:
    path.write_bytes(b"\xfd7zXZ\0rest")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_archive_of_a_squeezed_layer, "more than the limit of 4 MiB"),
        (_squeezed_archive, "more than the limit of 4 MiB"),
        (_archive_with_a_device, "device"),
        (_archive_that_leads_outside, "leads outside"),
        (_archive_of_many_entries, "more than 10000 entries"),
        (_exported_root, "neither an OCI archive nor a docker archive"),
        (_not_an_archive, "is refused"),
        (_squeezed_with_xz, "xz"),
    ],
)
def test_a_hostile_archive_is_refused_before_skopeo_sees_it(
    make: Callable[[Path], None], reason: str, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "hostile.tar")
    skopeo = tmp_path / "programs" / "skopeo"
    skopeo.parent.mkdir()
    skopeo.write_text("#!/bin/sh\necho skopeo was started >&2\nexit 1\n")
    skopeo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{skopeo.parent}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match=reason):
        store.import_image(str(tmp_path / "hostile.tar"))
    assert _left(tmp_path) == []


def test_one_of_several_architectures_is_chosen(store: ImageStore, tmp_path: Path) -> None:
    made = Layout(tmp_path / "both")
    listed = []
    for architecture, layer in (("arm64", _TOP), ("amd64", _BASE)):
        config = configuration([layer]) | {"architecture": architecture}
        described = made.image(config, [made.put(squeeze(layer), LAYER_TYPE)])
        listed.append(described | {"platform": {"os": "linux", "architecture": architecture}})
    index = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    made.index({"schemaVersion": 2, "manifests": [made.put(index, "application/vnd.oci.image.index.v1+json")]})
    record = store.import_image(str(tmp_path / "both"))
    assert (record.digest, record.architecture) == (listed[1]["digest"], "amd64")


def _random_image(folder: Path, size: int) -> Path:
    noise = random.Random(size).randbytes(size)
    return layout(folder, _BASE, tar(("noise", noise)))


_IMPORT = """
import sys
from pathlib import Path
from referee.images.store import ImageStore
ImageStore(Path(sys.argv[1]), architecture="amd64").import_image(sys.argv[2])
"""


def _start(objects: Path, source: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _IMPORT, str(objects), str(source)])


def _skopeo_below(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_an_import_killed_at_any_moment_leaves_nothing_half(tmp_path: Path) -> None:
    image = _random_image(tmp_path / "image", 12 << 20)
    objects = tmp_path / "objects"
    started = time.monotonic()
    assert _start(tmp_path / "measure", image).wait() == 0
    whole = time.monotonic() - started
    chance = random.Random(7)
    for _ in range(6):
        process = _start(objects, image)
        time.sleep(chance.uniform(0.3, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for record in ImageStore(objects, architecture="amd64").records():
            _require_whole(ImageStore(objects, architecture="amd64"), record)
        for blob in (objects / "blobs" / "sha256").glob("*"):
            assert digest(blob.read_bytes())[7:] == blob.name
    deadline = time.monotonic() + 20
    while _skopeo_below(objects) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _skopeo_below(objects) == []
    store = ImageStore(objects, architecture="amd64")
    _require_whole(store, store.import_image(str(image)))
    assert list((objects / "imports").iterdir()) == []


def test_a_blob_appears_whole(tmp_path: Path) -> None:
    image = _random_image(tmp_path / "image", 48 << 20)
    blobs = tmp_path / "objects" / "blobs" / "sha256"
    process = _start(tmp_path / "objects", image)
    seen: dict[str, set[int]] = {}
    while process.poll() is None:
        for path in blobs.glob("*"):
            seen.setdefault(path.name, set()).add(path.stat().st_size)
    assert process.returncode == 0
    assert seen
    for name, sizes in seen.items():
        assert sizes == {(blobs / name).stat().st_size}


def test_skopeo_dies_with_its_import_and_nobody_sweeps_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = layout(tmp_path / "image", _BASE)
    skopeo = tmp_path / "programs" / "skopeo"
    skopeo.parent.mkdir()
    skopeo.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/child\necho $$ > {tmp_path}/skopeo\nwait\n")
    skopeo.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{skopeo.parent}:{os.environ['PATH']}")
        process = _start(tmp_path / "objects", image)
    while not (tmp_path / "skopeo").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    process.wait()
    started, child = (int((tmp_path / name).read_text()) for name in ("skopeo", "child"))
    _await_end(started)
    store = ImageStore(tmp_path / "objects", architecture="amd64")
    store.import_image(str(image))
    left = [path for path in (tmp_path / "objects" / "imports").iterdir() if path.is_dir()]
    assert len(left) == 1  # a child of skopeo still works there
    os.kill(child, signal.SIGKILL)
    _await_end(child)
    store.import_image(str(image))
    assert list((tmp_path / "objects" / "imports").iterdir()) == []


def _await_end(pid: int) -> None:
    """Until the process is gone, or dead and only not yet collected by whoever adopted it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} still lives")


def _require_whole(store: ImageStore, record: ImageRecord) -> None:
    for blob in (record.digest, record.config_digest, *record.layers):
        assert digest(store.blob_path(blob).read_bytes()) == blob
    assert [facts.digest for facts in store.layers(record)] == list(record.layers)


def _import_in_process(objects: str, source: str) -> str:
    return ImageStore(Path(objects), architecture="amd64").import_image(source).digest


def test_several_processes_import_side_by_side(tmp_path: Path) -> None:
    images = [_random_image(tmp_path / f"image-{number}", (1 << 20) + number % 3) for number in range(6)]
    objects = tmp_path / "objects"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        digests = pool.starmap(_import_in_process, [(str(objects), str(image)) for image in images])
    store = ImageStore(objects, architecture="amd64")
    assert digests[:3] == digests[3:]
    assert {record.digest for record in store.records()} == set(digests)
    for record in store.records():
        _require_whole(store, record)
    assert list((objects / "imports").iterdir()) == []


class _Registry(http.server.BaseHTTPRequestHandler):
    """A registry that serves one layout; `tags` can be moved while it runs."""

    blobs: Path
    tags: dict[str, str]
    asked: list[str]

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        name = self.tags.get(name, name)
        path = self.blobs / name.removeprefix("sha256:")
        if self.path == "/v2/":
            self._answer(b"{}", "application/json")
        elif path.is_file():
            body = path.read_bytes()
            kind = json.loads(body).get("mediaType", "") if "/manifests/" in self.path else "application/octet-stream"
            self._answer(body, kind)
            self.asked.append(name)
            self.after(name)
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def after(self, name: str) -> None:
        """Something that happens once an answer was given."""

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Registry], Layout]]:
    made = Layout(tmp_path / "served")
    serving = type("_Serving", (_Registry,), {"blobs": made.blobs, "tags": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serving)
    place = f"127.0.0.1:{server.server_port}"
    conf = tmp_path / "home" / ".config" / "containers" / "registries.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f'[[registry]]\nlocation = "{place}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield place, serving, made
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_tag_that_moves_changes_nothing(registry: tuple[str, type[_Registry], Layout], store: ImageStore) -> None:
    place, serving, made = registry
    first = made.image(configuration([_BASE]), [made.put(squeeze(_BASE), LAYER_TYPE)])
    second = made.image(configuration([_TOP]), [made.put(squeeze(_TOP), LAYER_TYPE)])
    serving.tags["final"] = first["digest"]

    def move(_: _Registry, name: str) -> None:
        serving.tags["final"] = second["digest"]  # right after the first answer, in the middle of the import

    monkey = pytest.MonkeyPatch()
    monkey.setattr(serving, "after", move)
    record = store.import_image(f"docker://{place}/team/image:final")
    monkey.undo()
    assert record.digest == first["digest"]
    assert record.diff_ids == (digest(_BASE),)
    assert store.import_image(f"docker://{place}/team/image:final").digest == second["digest"]
    assert store.get(first["digest"]) == record
    with pytest.raises(ImageError, match="skopeo"):
        store.import_image(f"docker://{place}/team/image:missing")


def test_a_registry_is_asked_only_for_what_is_missing_and_fits(
    registry: tuple[str, type[_Registry], Layout], store: ImageStore
) -> None:
    place, serving, made = registry
    base, top = made.put(squeeze(_BASE), LAYER_TYPE), made.put(squeeze(_TOP), LAYER_TYPE)
    first = made.image(configuration([_BASE]), [base])
    second = made.image(configuration([_BASE, _TOP]), [base, top])
    foreign = made.image(configuration([_TOP]) | {"architecture": "arm64"}, [top])
    kind = "application/vnd.oci.image.index.v1+json"
    listed = [
        described | {"platform": {"os": "linux", "architecture": architecture}}
        for architecture, described in (("arm64", foreign), ("unknown", foreign), ("amd64", second))
    ]
    for tag, manifests in (("both", listed), ("arm", listed[:1])):
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
        serving.tags[tag] = made.put(json.dumps(index).encode(), kind)["digest"]
    store.import_image(f"docker://{place}/team/image@{first['digest']}")
    assert base["digest"] in serving.asked
    serving.asked.clear()
    record = store.import_image(f"docker://{place}/team/image:both")
    assert record.digest == second["digest"]
    assert record.diff_ids == (digest(_BASE), digest(_TOP))
    assert base["digest"] not in serving.asked
    assert top["digest"] in serving.asked
    with pytest.raises(ImageError, match="no variant for linux on amd64"):
        store.import_image(f"docker://{place}/team/image:arm")


def test_a_known_layer_is_no_excuse_for_lies(store: ImageStore, tmp_path: Path) -> None:
    store.import_image(str(layout(tmp_path / "honest", _BASE)))
    for number, lie in enumerate((_lying_size, _fewer_layers)):
        lie(Layout(tmp_path / f"lying-{number}"))
        with pytest.raises(ImageError, match=r"digest and size|lies about the content|skopeo copy failed"):
            store.import_image(str(tmp_path / f"lying-{number}"))
    assert len(store.records()) == 1


def test_a_layout_cannot_name_a_layer_that_it_does_not_have(store: ImageStore, tmp_path: Path) -> None:
    store.import_image(str(layout(tmp_path / "victim", _BASE)))
    made = Layout(tmp_path / "thief")
    _missing_layer(made)
    with pytest.raises(ImageError, match="skopeo copy failed"):
        store.import_image(str(tmp_path / "thief"))


def test_an_image_of_which_a_node_could_not_read_what_is_known_is_refused(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tar(*[(f"app/{number}", b"") for number in range(200)])
    source = layout(tmp_path / "crowded", _BASE, names)
    monkeypatch.setattr("referee.images.store.RECORD_LIMIT_BYTES", 2000)
    with pytest.raises(ImageError, match="too many files near its root"):
        store.import_image(str(source))
    assert store.records() == []
    monkeypatch.undo()
    store.import_image(str(source))
    assert len(ObjectImages(ObjectStore(tmp_path / "objects")).layer(store.records()[0].layers[1]).shallow) > 200


@pytest.mark.parametrize("source", ["docker-daemon:x", "dir:/tmp", "no such/thing!", "", "oci:/nowhere", "x\0y"])
def test_a_wrong_source_is_a_sentence(source: str, store: ImageStore) -> None:
    with pytest.raises(RefereeError) as caught:
        store.import_image(source)
    assert "docker-archive:FILE" in caught.value.hint
