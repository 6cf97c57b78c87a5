"""The example challenge is what its README says: real H.264 video, labels that fit, fakes made as planned, real images.

Everything is built by `build.py` itself, in the cache that `make demo` uses too; the first build takes about a minute.
"""

import csv
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.metrics import log_loss as reference_log_loss

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/deepfake"
PHASES = ("public_validation", "public_test", "private_test")

sys.path.insert(0, str(EXAMPLE))
from builder import cache, clips, faces, phases, sources, training  # noqa: E402  the example is not a package
from builder.manipulations import Kind  # noqa: E402  as above
from builder.roster import read_roster  # noqa: E402  as above

ROSTER = read_roster(EXAMPLE / "roster.toml")


def build(into: Path, *options: str) -> Path:
    """Run the one command that builds the example."""
    command = [sys.executable, str(EXAMPLE / "build.py"), "--into", str(into), "--cache", str(ROOT / ".cache")]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return into


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips, labels and metadata of the example, without images."""
    return build(tmp_path_factory.mktemp("example"), "--no-images")


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole example, images included."""
    if os.geteuid() != 0:
        pytest.skip("building images needs root")
    return build(tmp_path_factory.mktemp("challenge"))


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file as a list of rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def decoded(path: Path) -> tuple[str, list[tuple[int, int]]]:
    """The codec of a clip and the size of each of its frames."""
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context.name
        return codec, [(frame.width, frame.height) for frame in container.decode(video=0)]


@pytest.mark.parametrize("phase", PHASES)
def test_every_clip_is_two_seconds_of_h264_but_for_the_corrupt_one(data: Path, phase: str) -> None:
    corrupt = {row["filename"] for row in rows(data / f"metadata/{phase}.csv") if row["corrupt"] == "yes"}
    assert len(corrupt) == (1 if phase == "private_test" else 0)
    for clip in sorted((data / "data" / phase).iterdir()):
        if clip.name in corrupt:
            with pytest.raises(av.error.FFmpegError):
                decoded(clip)
        else:
            assert decoded(clip) == ("h264", [(clips.SIDE, clips.SIDE)] * clips.LENGTH)


@pytest.mark.parametrize("phase", PHASES)
def test_labels_and_metadata_name_exactly_the_files_and_agree(data: Path, phase: str) -> None:
    files = {clip.name for clip in (data / "data" / phase).iterdir()}
    labels, metadata = rows(data / f"labels/{phase}.csv"), rows(data / f"metadata/{phase}.csv")
    assert [row["filename"] for row in labels] == sorted(files)
    assert [row["filename"] for row in metadata] == sorted(files)
    for label, known in zip(labels, metadata, strict=True):
        assert label["label"] == ("0" if known["manipulation"] == "real" else "1")


def test_the_private_phase_is_large_and_shows_what_the_public_phases_do_not(data: Path) -> None:
    known = {phase: rows(data / f"metadata/{phase}.csv") for phase in PHASES}
    public = known["public_validation"] + known["public_test"]
    private = known["private_test"]
    assert len(private) >= 40
    for column, new in (("manipulation", "mouth_warp"), ("identity", "pyfeat"), ("organic", "yes")):
        assert new in {row[column] for row in private}
        assert new not in {row[column] for row in public}
    assert len({row["manipulation"] for row in public} - {"real"}) >= 3


def test_no_frame_serves_two_phases_except_in_the_public_ones() -> None:
    used: dict[str, set[tuple[str, int]]] = {}
    for recipe in clips.RECIPES:
        role = "public" if recipe.phase.startswith("public") else recipe.phase
        frames = {(s.footage, index) for s in recipe.stretches for index in range(s.first, s.last)}
        used[role] = used.get(role, set()) | frames
    assert not used["training"] & used["public"]
    assert not used["training"] & used["private_test"]
    assert not used["public"] & used["private_test"]


@pytest.fixture(scope="module")
def carphone() -> tuple[list[sources.Frame], list[faces.Face]]:
    """One stretch of footage with its faces, tracked anew."""
    media = next((ROOT / ".cache").glob("media-*"))
    footage = next(footage for footage in sources.FOOTAGE if footage.name == "carphone")
    frames = sources.read_footage(media, footage)
    tracked = faces.track(faces.FaceDetector(media / sources.DETECTOR_FILE), frames)
    return frames, [face for face in tracked if face is not None]


@pytest.mark.parametrize("kind", [Kind.REAL, Kind.SELF_BLEND, Kind.RESYNTHESIS])
def test_a_clip_made_again_is_the_same_file(
    data: Path, carphone: tuple[list[sources.Frame], list[faces.Face]], tmp_path: Path, kind: Kind
) -> None:
    recipe = next(recipe for recipe in clips.RECIPES if recipe.phase == "public_test")
    same = [clip for clip in clips.plan(recipe) if clip.kind is kind and clip.footage == "carphone"]
    assert same
    for clip in same:
        phases.write_clip(clip, *carphone, None, tmp_path)
        assert (tmp_path / clip.filename).read_bytes() == (data / "data/public_test" / clip.filename).read_bytes()


@pytest.mark.parametrize("kind", [Kind.SELF_BLEND, Kind.RESYNTHESIS, Kind.MOUTH_WARP])
def test_a_manipulation_changes_the_face_and_leaves_the_rim(
    carphone: tuple[list[sources.Frame], list[faces.Face]], kind: Kind
) -> None:
    recipe = next(recipe for recipe in clips.RECIPES if recipe.phase == "public_test")
    plan = next(clip for clip in clips.plan(recipe) if clip.footage == "carphone")
    real, _ = clips.cut(plan, *carphone)
    fake = clips.manipulate(kind, real, clips.cut(plan, *carphone)[1], None, np.random.default_rng(1))
    change = np.mean([np.abs(a.astype(int) - b).mean(axis=2) for a, b in zip(real, fake, strict=True)], axis=0)
    quarter = clips.SIDE // 4
    rim = np.concatenate([change[:8].ravel(), change[:, :8].ravel(), change[:, -8:].ravel()])
    inside = change[quarter:-quarter, quarter:-quarter].mean()
    assert inside > 0.5
    assert rim.mean() < inside / 10


def test_log_loss_of_the_builder_is_that_of_scikit_learn(tmp_path: Path) -> None:
    truth, given = [0, 1, 1, 0, 1], [0.2, 0.9, 0.4, 1e-9, 1.0]
    names = [f"{index}.mp4" for index in range(5)]
    for name, values in (("labels", truth), ("submission", given)):
        lines = [f"{file},{value}" for file, value in zip(names, values, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["filename,label", *lines]) + "\n")
    found = training.log_loss(tmp_path / "labels.csv", tmp_path / "submission.csv")
    assert found == pytest.approx(reference_log_loss(truth, given), rel=1e-12)


def test_a_step_that_fails_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached(tmp_path, "step", "0" * 16, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_step_is_not_made_again_and_replaces_that_of_another_key(tmp_path: Path) -> None:
    made: list[Path] = []
    first = cache.cached(tmp_path, "step", "0" * 16, made.append)
    assert cache.cached(tmp_path, "step", "0" * 16, made.append) == first
    assert len(made) == 1
    second = cache.cached(tmp_path, "step", "1" * 16, made.append)
    assert list(tmp_path.iterdir()) == [second]


def test_the_roster_has_a_dozen_teams_three_kinds_of_source_and_unique_names() -> None:
    assert len({entry.team for entry in ROSTER}) >= 12
    assert len({entry.name for entry in ROSTER}) == len(ROSTER)
    assert {entry.transport for entry in ROSTER} == {"oci", "oci-archive", "docker-archive"}
    assert max(Counter(entry.team for entry in ROSTER).values()) == 2
    assert {entry.kind for entry in ROSTER} == {"cpu", "gpu"}


@pytest.mark.parametrize("folder", sorted({entry.folder for entry in ROSTER}))
def test_a_containerfile_names_no_registry_host(folder: str) -> None:
    lines = (EXAMPLE / "submissions" / folder / "Containerfile").read_text().splitlines()
    assert lines[0] == "ARG BASE=python:3.11-slim"
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE}"]


@pytest.mark.containers
@pytest.mark.timeout(600)
def test_the_manifest_points_at_images_that_skopeo_reads_and_two_of_them_are_one(challenge: Path) -> None:
    digests = {}
    for row in rows(challenge / "submissions.csv"):
        transport, _, path = row["image"].partition(":")
        command = ["skopeo", "inspect", f"{transport}:{challenge / path}"]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        digests[row["submission"]] = answer["Digest"]
    assert set(digests) == {entry.name for entry in ROSTER}
    assert digests["mirror-images-1"] == digests["deep-thinkers-1"]
    assert len(set(digests.values())) == len(digests) - 1


@pytest.mark.containers
@pytest.mark.timeout(600)
def test_the_detectors_beat_one_half_in_public_and_one_team_claims_too_much(challenge: Path) -> None:
    given = {row["submission"]: row["public_score"] for row in rows(challenge / "submissions.csv")}
    assert float(given["coin-flippers-1"]) == pytest.approx(math.log(2), abs=1e-8)
    for name in ("deep-thinkers-1", "deep-thinkers-2", "frame-hoppers-1"):
        assert float(given[name]) < 0.62
    assert float(given["blind-certainty-1"]) > 1
    assert float(given["rosy-forecast-1"]) < 0.7 * float(given["deep-thinkers-2"])
    assert {entry.name for entry in ROSTER if not given[entry.name]} == {
        entry.name for entry in ROSTER if entry.public_score == "none"
    }
