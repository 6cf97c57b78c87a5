"""Phases: all clips of the challenge, written by two processes, with their labels and what is known about them."""

import csv
import ctypes
import functools
import multiprocessing
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from builder.clips import RECIPES, Clip, encode, plan, render, spoil
from builder.faces import Face, FaceDetector, track
from builder.manipulations import Donor
from builder.sources import DETECTOR_FILE, FOOTAGE, STILLS, Footage, Frame, read_footage, read_still

PR_SET_PDEATHSIG = 1
IDENTITIES = {footage.name: footage.identity for footage in FOOTAGE}
ORGANIC = frozenset({"pyfeat"})
"""Identities that nobody staged for the challenge: they came from elsewhere, like the organic videos of DFDC."""


def build_phases(media: Path, into: Path, processes: int = 2) -> None:
    """Write `<phase>/*.mp4`, `<phase>.labels.csv` and `<phase>.metadata.csv` into a folder."""
    donors = _donors(media)
    clips = [clip for recipe in RECIPES for clip in plan(recipe)]
    for recipe in RECIPES:
        (into / recipe.phase).mkdir()
    # Fresh interpreters: a fork would copy OpenCV's threads, and those of the build, in the middle of their work.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=fresh, initializer=die_with_parent) as pool:
        try:
            by_length = sorted(FOOTAGE, key=lambda footage: footage.start - footage.end)
            tracks = dict(done.result() for done in [pool.submit(_track, media, footage) for footage in by_length])
            jobs = _jobs(clips, processes)
            for done in [pool.submit(_render_all, media, into, tracks, donors, job) for job in jobs]:
                done.result()
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.kill()
            raise
    for recipe in RECIPES:
        _describe([clip for clip in clips if clip.phase == recipe.phase], into)


def die_with_parent() -> None:
    """Make the kernel end this worker when the build ends for any reason, SIGKILL included; Ctrl-C ends it quietly."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _donors(media: Path) -> dict[str, Donor]:
    detector = FaceDetector(media / DETECTOR_FILE)
    donors = {}
    for still in STILLS:
        image = read_still(media, still)
        for index, face in enumerate(detector.find(image, width=640)):
            name = f"{still.name}-{index}"
            donors[name] = Donor(name, image, face)
    return donors


def _track(media: Path, footage: Footage) -> tuple[str, list[Face | None]]:
    return footage.name, track(FaceDetector(media / DETECTOR_FILE), _frames(media, footage.name))


@functools.lru_cache(maxsize=len(FOOTAGE))
def _frames(media: Path, name: str) -> list[Frame]:
    return read_footage(media, next(footage for footage in FOOTAGE if footage.name == name))


def _jobs(clips: Sequence[Clip], processes: int) -> Iterable[list[Clip]]:
    for footage in FOOTAGE:
        mine = [clip for clip in clips if clip.footage == footage.name]
        for part in range(processes):
            yield mine[part::processes]


def _render_all(
    media: Path, into: Path, tracks: dict[str, list[Face | None]], donors: dict[str, Donor], clips: list[Clip]
) -> None:
    for clip in clips:
        write_clip(clip, _frames(media, clip.footage), tracks[clip.footage], donors[clip.donor], into / clip.phase)


def write_clip(clip: Clip, frames: Sequence[Frame], faces: Sequence[Face | None], donor: Donor, folder: Path) -> None:
    """Render, encode and, for the corrupt clip, spoil one file."""
    # A recipe's stretches hold a face in every frame; the title cards before and after hold none.
    seen = [face if face is not None else Face.nowhere() for face in faces]
    path = folder / clip.filename
    encode(render(clip, frames, seen, donor), path, clip.crf)
    if clip.corrupt:
        spoil(path, clip.seed)


def _describe(clips: Sequence[Clip], into: Path) -> None:
    phase = clips[0].phase
    with (into / f"{phase}.labels.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "label"])
        writer.writerows([clip.filename, clip.label] for clip in clips)
    with (into / f"{phase}.metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "manipulation", "identity", "organic", "corrupt"])
        for clip in clips:
            identity = IDENTITIES[clip.footage]
            organic = "yes" if identity in ORGANIC else "no"
            writer.writerow([clip.filename, clip.kind.value, identity, organic, "yes" if clip.corrupt else "no"])
