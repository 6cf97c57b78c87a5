"""Clips: the plan of every two-second clip of every phase, and how one is cut, faked and encoded."""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from builder.faces import Face, mirrored, moved, smooth
from builder.manipulations import Donor, Kind, manipulate
from builder.sources import FRAMES_PER_SECOND, Frame

SIDE = 192
"""Width and height of every clip in pixels."""
LENGTH = 2 * FRAMES_PER_SECOND
"""Frames in a clip: two seconds."""
SEED = 20200323

KNOWN = (Kind.SELF_BLEND, Kind.RESYNTHESIS, Kind.SWAP)


@dataclass(frozen=True)
class Stretch:
    """Frames `first` to `last` (exclusive) of one footage, as one phase may use them."""

    footage: str
    first: int
    last: int


@dataclass(frozen=True)
class Recipe:
    """What a phase is made of. Fakes take the kinds in turn, so their numbers differ by one at most."""

    phase: str
    real: int
    fake: int
    kinds: tuple[Kind, ...]
    stretches: tuple[Stretch, ...]
    donors: tuple[str, ...]
    corrupt: bool = False
    paired: bool = False


@dataclass(frozen=True)
class Clip:
    """Everything that decides one clip; two equal clips give equal files on one machine."""

    phase: str
    filename: str
    kind: Kind
    footage: str
    start: int
    zoom: float
    shift: tuple[float, float]
    flip: bool
    gamma: float
    crf: int
    donor: str
    seed: int
    corrupt: bool = False

    @property
    def label(self) -> int:
        """1 for a fake, 0 for a real clip."""
        return int(self.kind is not Kind.REAL)


RECIPES = (
    Recipe(
        "training", 36, 108, KNOWN,
        (Stretch("langer", 0, 72), Stretch("langer", 108, 156), Stretch("carphone", 0, 24)),
        ("group-0", "group-1", "group-2", "group-3"), paired=True,
    ),
    Recipe(
        "public_validation", 12, 12, KNOWN,
        (Stretch("langer", 72, 108), Stretch("langer", 72, 108), Stretch("carphone", 24, 48)),
        ("group-3", "group-4"),
    ),
    Recipe(
        "public_test", 18, 18, KNOWN,
        (Stretch("langer", 156, 196), Stretch("langer", 156, 196), Stretch("carphone", 24, 48)),
        ("group-3", "group-4"),
    ),
    Recipe(
        "private_test", 24, 24, (*KNOWN, Kind.MOUTH_WARP),
        (
            Stretch("langer", 196, 235), Stretch("langer", 196, 235), Stretch("pyfeat-single", 0, 28),
            Stretch("langer", 196, 235), Stretch("pyfeat-first", 0, 28), Stretch("pyfeat-last", 5, 33),
        ),
        ("group-4", "astronaut-0"), corrupt=True,
    ),
)  # fmt: skip


def plan(recipe: Recipe) -> list[Clip]:
    """Draw every clip of a phase from one seed: pure, the same list each time.

    In a paired phase each real clip comes once with each kind of fake made of the very same frames, so that
    training sees what a manipulation changes and nothing else.
    """
    random = np.random.default_rng([SEED, *recipe.phase.encode()])
    kinds = [Kind.REAL] * recipe.real + [recipe.kinds[i % len(recipe.kinds)] for i in range(recipe.fake)]
    clips = []
    for index, kind in enumerate(kinds):
        place = index
        if recipe.paired and kind is not Kind.REAL:
            place = (index - recipe.real) // len(recipe.kinds) % recipe.real
        draw = np.random.default_rng([SEED, *recipe.phase.encode(), place if recipe.paired else index])
        stretch = recipe.stretches[int(draw.integers(len(recipe.stretches)))]
        clips.append(
            Clip(
                phase=recipe.phase,
                filename="".join(random.choice(list(string.ascii_lowercase), 10)) + ".mp4",
                kind=kind,
                footage=stretch.footage,
                start=int(draw.integers(stretch.first, stretch.last - LENGTH + 1)),
                zoom=float(draw.uniform(1.25, 1.7)),
                shift=(float(draw.uniform(-0.08, 0.08)), float(draw.uniform(-0.08, 0.08))),
                flip=bool(draw.random() < 0.5),
                gamma=float(draw.uniform(0.8, 1.25)),
                crf=int(draw.integers(16, 26)),
                donor=str(draw.choice(list(recipe.donors))),
                seed=int(random.integers(2**31)),
                corrupt=recipe.corrupt and index == recipe.real - 1,
            )
        )
    return sorted(clips, key=lambda clip: clip.filename)


def cut(clip: Clip, frames: Sequence[Frame], faces: Sequence[Face]) -> tuple[list[Frame], list[Face]]:
    """Cut a clip's window out of its footage: a fixed square around the face, scaled to `SIDE`."""
    window = frames[clip.start : clip.start + LENGTH]
    tracked = smooth(list(faces[clip.start : clip.start + LENGTH]))
    height, width = window[0].shape[:2]
    size = float(np.median([face.size for face in tracked]))
    side = min(size * clip.zoom, height, width)
    centre = np.median([face.centre for face in tracked], axis=0) + size * np.array(clip.shift)
    corner = np.clip(centre - side / 2, 0, [width - side, height - side]).round()
    whole = int(side)
    left, top = (int(value) for value in corner)
    method = cv2.INTER_AREA if whole >= SIDE else cv2.INTER_CUBIC
    table = np.clip(((np.arange(256) / 255) ** clip.gamma * 255).round(), 0, 255).astype(np.uint8)
    out_frames, out_faces = [], []
    for frame, face in zip(window, tracked, strict=True):
        square = cv2.resize(frame[top : top + whole, left : left + whole], (SIDE, SIDE), interpolation=method)
        placed = moved(face, corner, SIDE / whole)
        if clip.flip:
            square, placed = cv2.flip(square, 1), mirrored(placed, SIDE)
        out_frames.append(np.asarray(cv2.LUT(square, table), np.uint8))
        out_faces.append(placed)
    return out_frames, out_faces


def render(clip: Clip, frames: Sequence[Frame], faces: Sequence[Face], donor: Donor) -> list[Frame]:
    """Cut a clip and fake it as its plan says: `LENGTH` BGR frames of `SIDE` x `SIDE` pixels."""
    square, placed = cut(clip, frames, faces)
    return manipulate(clip.kind, square, placed, donor, np.random.default_rng(clip.seed))


# With macroblock trees, libx264's vector code gives files that differ from run to run; without, equal frames
# give equal bytes. One thread, because the number of threads shapes the stream too.
X264 = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}


def encode(frames: Sequence[Frame], path: Path, crf: int) -> None:
    """Write frames as H.264 in mp4, without any time stamp of the build: equal frames give equal bytes."""
    with av.open(str(path), "w", format="mp4") as container:
        options = X264 | {"crf": str(crf)}
        stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND), options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for packet in _packets(stream, frames):
            container.mux(packet)


def _packets(stream: av.VideoStream, frames: Sequence[Frame]) -> "Iterator[av.Packet[av.VideoStream]]":
    for frame in frames:
        yield from stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24"))
    yield from stream.encode(None)


def spoil(path: Path, seed: int) -> None:
    """Make a file unreadable as half-finished uploads are: the end is missing, the middle is noise."""
    content = path.read_bytes()
    random = np.random.default_rng(seed)
    keep = len(content) // 3
    path.write_bytes(content[:keep] + random.bytes(len(content) // 4))
