"""Pruning the image store removes what nobody is pinned to, and never what an image that stays is made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_world import make_campaign
from referee.challenge import Challenge, EngineChoice, challenge_text, load_challenge
from referee.cli import main
from referee.engines.local import from_challenge
from referee.errors import ConflictError, RefereeError
from referee.images.model import ImageConfig, ImageLostError, ImageRecord
from referee.images.pruning import prune
from referee.images.store import ImageStore
from referee.objects import ObjectStore


def blob(objects: Path, content: bytes) -> str:
    """A blob as an import keeps it."""
    name = hashlib.sha256(content).hexdigest()
    (objects / "blobs/sha256" / name).write_bytes(content)
    return f"sha256:{name}"


def image(objects: Path, *layers: bytes) -> str:
    """An image of these layers, with a record and facts as an import leaves them; its digest."""
    ImageStore(objects)
    digests = tuple(blob(objects, layer) for layer in layers)
    for one in digests:
        (objects / "layers" / f"{one[7:]}.json").write_text("{}")
    config = blob(objects, b"config of " + b"+".join(layers))
    manifest = blob(objects, b"manifest of " + b"+".join(layers))
    record = ImageRecord(
        digest=manifest,
        config_digest=config,
        architecture="amd64",
        layers=digests,
        diff_ids=digests,
        stored_bytes=1,
        unpacked_bytes=1,
        config=ImageConfig(),
        findings=(),
    )
    (objects / "images" / f"{manifest[7:]}.json").write_text(record.model_dump_json())
    return manifest


def files(objects: Path) -> set[str]:
    """Everything in the store but its lock."""
    return {
        str(path.relative_to(objects)) for path in objects.rglob("*") if path.is_file() and path.name != "images.lock"
    }


@given(
    images=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=5, unique_by=frozenset),
    loose=st.sets(st.integers(6, 9)),
    data=st.data(),
)
def test_what_stays_is_whole_and_nothing_else_stays(
    tmp_path_factory: pytest.TempPathFactory, images: list[set[int]], loose: set[int], data: st.DataObject
) -> None:
    objects = tmp_path_factory.mktemp("store") / "objects"
    made = [image(objects, *(bytes([layer]) for layer in sorted(layers))) for layers in images]
    pinned = data.draw(st.sets(st.sampled_from(made)))
    alone = tmp_path_factory.mktemp("expected") / "objects"
    ImageStore(alone)
    for digest, layers in zip(made, images, strict=True):
        if digest in pinned:
            image(alone, *(bytes([layer]) for layer in sorted(layers)))
    for number in loose:
        blob(objects, bytes([number]))
    before = files(objects)
    told = prune(objects, lambda: pinned, dry_run=True)
    assert files(objects) == before
    assert prune(objects, lambda: pinned) == told
    assert files(objects) == files(alone)
    assert set(told.images) == set(made) - pinned
    assert told.kept == len(pinned)
    again = prune(objects, lambda: pinned)
    assert (again.images, again.blobs, again.size_bytes) == ((), 0, 0)


def test_nothing_is_removed_while_something_is_imported(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    image(tmp_path, b"layer")

    def too_early() -> list[str]:
        raise AssertionError("the ledger may still grow")

    with store.importing(), pytest.raises(ConflictError, match="being imported"):
        store.prune(too_early)
    assert store.prune(list).blobs == 3


def test_nothing_is_removed_where_a_pinned_image_s_needs_are_not_known(tmp_path: Path) -> None:
    pinned, other = image(tmp_path, b"a"), image(tmp_path, b"b")
    (tmp_path / "images" / f"{pinned[7:]}.json").write_text("{")
    before = files(tmp_path)
    with pytest.raises(ImageLostError):
        prune(tmp_path, lambda: [pinned])
    assert files(tmp_path) == before
    (tmp_path / "images" / f"{pinned[7:]}.json").unlink()
    assert prune(tmp_path, lambda: [pinned]).images == (other,)
    assert f"blobs/sha256/{pinned[7:]}" in files(tmp_path)


def test_what_is_no_blob_of_ours_is_left_alone(tmp_path: Path) -> None:
    ImageStore(tmp_path)
    for name in ("blobs/sha256/README", "images/x.json", "layers/.nfs0001"):
        (tmp_path / name).write_text("kept")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / ("0" * 64)).write_text("kept")
    before = files(tmp_path)
    prune(tmp_path, list)
    assert files(tmp_path) == before


def test_by_the_command_line_every_submission_s_image_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_campaign(tmp_path / "challenge", submissions=2, score=False)
    objects = folder / ".referee/objects"
    left = image(objects, b"never recorded")
    mine = f"{0:064x}"  # the image of the first submission
    (objects / "blobs/sha256" / mine).write_text("its manifest")
    place = ["--challenge", str(folder)]
    assert main(["images", "prune", "--dry-run", "--json", *place]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["blobs"], told["removed"]) == ([left], 3, False)
    results = {name for name in files(objects) if name.startswith("results/")}
    assert main(["images", "prune", *place]) == 0
    assert "Removed 1 images and 3 blobs" in capsys.readouterr().out.replace("\n", " ")
    assert files(objects) - results == {f"blobs/sha256/{mine}"} | {
        name for name in files(objects) - results if not name.startswith(("blobs/", "images/", "layers/"))
    }
    assert results <= files(objects)
    (folder / "challenge.toml").write_text(
        (folder / "challenge.toml").read_text() + '[engine]\nname = "slurm"\n[engine.slurm]\nshared = "/shared/x"\n'
    )
    assert main(["images", "prune", *place]) != 0
    assert "other challenges may use" in capsys.readouterr().err.replace("\n", " ")


def test_the_size_of_the_cache_is_the_challenge_s_to_say_and_no_part_of_what_is_judged_by(tmp_path: Path) -> None:
    text = 'name = "small"\n[phases.test]\ndata = "data"\nvisibility = "private"\n'
    (tmp_path / "data").mkdir()
    (tmp_path / "challenge.toml").write_text(text)
    plain = load_challenge(tmp_path)
    (tmp_path / "challenge.toml").write_text(text + '[engine]\nimage_cache = "3GiB"\n')
    bounded = load_challenge(tmp_path)
    assert bounded.engine.image_cache == 3 * 2**30
    assert challenge_text(bounded) == challenge_text(plain)
    assert Challenge.model_validate(json.loads(challenge_text(plain))).name == "small"
    engine = from_challenge(bounded, ObjectStore(tmp_path / "objects"), tmp_path / "node")
    try:
        assert engine._cache_bytes == 3 * 2**30
    finally:
        engine.close()
    for name in ("slurm", "aws-batch"):
        with pytest.raises(ValueError, match="image_cache is for the engine local"):
            EngineChoice(name=name, image_cache=1)
    (tmp_path / "challenge.toml").write_text(text + '[engine]\nimage_cache = "0"\n')
    with pytest.raises(RefereeError):
        load_challenge(tmp_path)
