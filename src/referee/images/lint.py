"""What an image's configuration asks for: refused, ignored, or honoured. Everything is said in words."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from referee.challenge import Contract
from referee.errors import ImageError
from referee.images.manifest import Configuration, RunConfig
from referee.images.model import ImageConfig, ImageRecord, LayerFacts, shown

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?(?::[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63})?", re.ASCII)
_SANDBOX_FOLDERS = {"proc", "sys", "dev"}
_SANDBOX_PATHS = ("/tmp", "/proc", "/sys", "/dev")  # noqa: S108 - paths inside the container, where mounts are placed
_MAX_ENVIRONMENT_BYTES = 128 * 1024


def host_architecture() -> str:
    """This machine's architecture in the words of the OCI specification."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def lint_configuration(configuration: Configuration, architecture: str) -> tuple[ImageConfig, tuple[str, ...]]:
    """What a sandbox honours of the configuration, and findings about the rest.

    Raises:
        ImageError: if no container can be made from it under any contract.
    """
    if configuration.system != "linux" or configuration.architecture != architecture:
        raise ImageError(
            f"The image is for {shown(configuration.system)} on {shown(configuration.architecture)}, "
            f"and this challenge runs linux on {architecture}.",
            hint=f"Build it with `--platform linux/{architecture}`.",
        )
    run = configuration.config or RunConfig()
    entrypoint, command = tuple(run.entrypoint or ()), tuple(run.command or ())
    _require_program(entrypoint, command)
    environment, problems = _environment(run.environment or [])
    return (
        ImageConfig(
            entrypoint=entrypoint,
            command=command,
            environment=environment,
            working_folder=_working_folder(run.working_folder or "/"),
            user=_user(run.user or ""),
        ),
        (*problems, *ignored(run)),
    )


def ignored(run: RunConfig) -> tuple[str, ...]:
    """A sentence for each thing that the image declares and the sandbox does not do."""
    findings = []
    if run.volumes:
        names = ", ".join(shown(name) for name in sorted(run.volumes)[:5])
        findings.append(f"VOLUME {names} is ignored: no volume is made, the folder is as the image has it.")
    if run.healthcheck:
        findings.append("HEALTHCHECK is ignored: a submission is judged by its end.")
    if run.on_build:
        findings.append("ONBUILD is ignored: nothing is built from a submission.")
    if run.ports:
        findings.append("EXPOSE is ignored: there is no network.")
    if run.stop_signal and run.stop_signal not in ("SIGTERM", "15"):
        findings.append(f"STOPSIGNAL {shown(run.stop_signal)} is ignored: a submission is stopped by SIGKILL only.")
    if (run.user or "root").split(":")[0] in ("root", "0"):
        findings.append(
            "USER is root: it runs as the contract's user, or as root of its own user namespace without capabilities."
        )
    return tuple(findings)


def lint_layers(layers: Sequence[LayerFacts]) -> tuple[str, ...]:
    """A sentence for each kind of thing in the layers that the node leaves out or changes."""
    sentences = (
        ("setuid", "files have the setuid or setgid bit, which is dropped"),
        ("capabilities", "files carry capabilities, which are dropped"),
        ("special", "device nodes or FIFOs are left out (the sandbox has its own /dev)"),
        ("foreign_ids", "entries belong to users above 65535 and come to belong to nobody"),
    )
    findings = []
    for kind, text in sentences:
        count = sum(getattr(layer, kind) for layer in layers)
        names = [name for layer in layers for name in layer.examples.get(kind, ())][:5]
        if count:
            findings.append(f"{count} {text}: {', '.join(names)}{', …' if count > len(names) else ''}.")
    return tuple(findings)


def lint_against(record: ImageRecord, layers: Sequence[LayerFacts], contract: Contract) -> tuple[str, ...]:
    """What stands in the way of running the image under a contract; empty if nothing does.

    Paths more than three names deep are looked at by the sandbox only, when it mounts.

    Args:
        layers: the facts of the record's layers, lowest first.
    """
    problems = []
    for path in dict.fromkeys((contract.data, contract.output, *_SANDBOX_PATHS)):
        for part in reversed([PurePosixPath(path), *PurePosixPath(path).parents]):
            name = str(part)[1:]
            letter = _merged(name, layers) if name else "d"
            if letter in ("l", "f"):
                what = "a symbolic link" if letter == "l" else "not a folder"
                problems.append(f"{part} is {what} in the image, but {path} belongs to the sandbox.")
                break
    if contract.user == "image":
        for number in record.config.user.split(":"):
            if number.isdecimal() and int(number) > 65535:
                problems.append(f"USER {record.config.user} is above 65535, which the sandbox does not map.")
                break
    return tuple(problems)


def _merged(path: str, layers: Sequence[LayerFacts]) -> str | None:
    """What the layers together have at `path`, as overlayfs would show it."""
    parents = [str(parent) for parent in PurePosixPath(path).parents][:-1]
    for layer in reversed(layers):
        letter = layer.shallow.get(path)
        if letter is not None:
            return letter
        if any(layer.shallow.get(parent, "d") != "d" for parent in parents):
            return None  # what lower layers have below that parent is hidden
    return None


def _require_program(entrypoint: tuple[str, ...], command: tuple[str, ...]) -> None:
    words = entrypoint + command
    if not words or not words[0]:
        raise ImageError(
            "The image has neither an ENTRYPOINT nor a CMD, so there is nothing to run.",
            hint="State the program with ENTRYPOINT and build the image again.",
        )
    if any("\0" in word for word in words) or sum(len(word.encode()) for word in words) > _MAX_ENVIRONMENT_BYTES:
        raise ImageError("The image's ENTRYPOINT or CMD is too long or holds a NUL.", hint="Build the image again.")


def _environment(pairs: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if any("\0" in pair for pair in pairs) or sum(len(pair.encode()) for pair in pairs) > _MAX_ENVIRONMENT_BYTES:
        raise ImageError("The image's environment is too long or holds a NUL.", hint="Build the image again.")
    kept = tuple(pair for pair in pairs if pair.partition("=")[1] and pair.partition("=")[0])
    dropped = [shown(pair.partition("=")[0], 40) for pair in pairs if pair not in kept]
    findings = (f"ENV entries without a name or a value are ignored: {', '.join(dropped[:5])}.",) if dropped else ()
    return kept, findings


def _working_folder(path: str) -> str:
    parts = PurePosixPath(path)
    if not parts.is_absolute() or ".." in parts.parts or "\0" in path or len(path.encode()) > 4095:
        raise ImageError(
            f"The image's WORKDIR {shown(path)} is not a plain absolute path.", hint="Set WORKDIR to such as /app."
        )
    parts = PurePosixPath("/" + path.lstrip("/"))
    if len(parts.parts) > 1 and parts.parts[1] in _SANDBOX_FOLDERS:
        # CVE-2024-21626: a working folder below /proc/self/fd leads out of the container.
        raise ImageError(
            f"The image's WORKDIR {shown(path)} lies in a folder of the sandbox.", hint="Set WORKDIR to such as /app."
        )
    return str(parts)


def _user(user: str) -> str:
    if user and not _USER.fullmatch(user):
        raise ImageError(
            f"The image's USER {shown(user)} is not a user, or a user and a group.",
            hint="Write it as `app` or `1000:1000`.",
        )
    return user
