"""Reading the file: what is wrong in it becomes a sentence each, with the place and the valid choices."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from referee.challenge.whole import FILE_NAME, NAME_PATTERN, Challenge
from referee.errors import ConfigurationError


def find_challenge(start: Path) -> Path:
    """The `challenge.toml` in `start`.

    Raises:
        ConfigurationError: if there is none there.
    """
    path = start / FILE_NAME if start.is_dir() else start
    if not path.is_file():
        raise ConfigurationError(
            f"There is no {FILE_NAME} in {path.parent}.",
            hint="Go to your challenge's folder, or make one with `referee init NAME`.",
        )
    return path


def load_challenge(path: Path) -> Challenge:
    """Read and validate a challenge file (or the folder that holds it).

    Raises:
        ConfigurationError: with one line for each thing that is wrong: the place, what is wrong, what is valid.
    """
    path = find_challenge(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.", hint="Mend that line and try again.") from error
    if "folder" in raw:
        raise ConfigurationError(f"{path}: folder: there is no such key.", hint="Paths are relative to the file.")
    try:
        challenge = Challenge.model_validate(raw | {"folder": path.parent.resolve()})
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise ConfigurationError(
            f"{path}: " + "\n".join(problems), hint="`referee init` writes a commented example with every key."
        ) from error
    _check_files(challenge, path)
    return challenge


def _sentence(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        valid = _keys_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1)
        guess = f" Did you mean `{near[0]}`?" if near else ""
        return f"{place}: there is no such key.{guess} Valid keys here: {', '.join(valid)}."
    if kind == "missing":
        return f"{place}: this key is required."
    if kind == "literal_error":
        return f"{place}: {problem['input']!r} is not one of {context['expected']}."
    if kind == "value_error":
        return f"{place}: {context['error']}."
    return f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]} (found {problem['input']!r})."


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    model: Any = Challenge
    for part in location:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is not None:
            model = field.annotation
        elif getattr(model, "__origin__", None) is dict:
            model = model.__args__[1]
    fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
    return [name for name in fields if name != "folder"]


def _check_files(challenge: Challenge, path: Path) -> None:
    chosen = challenge.reproduction.phase
    if chosen is not None and (chosen not in challenge.phases or challenge.phases[chosen].visibility != "public"):
        public = [name for name, phase in challenge.phases.items() if phase.visibility == "public"]
        raise ConfigurationError(
            f"{path}: reproduction.phase: {chosen!r} is not a public phase.",
            hint=f"Public phases: {', '.join(public) or 'none'}.",
        )
    for name, phase in challenge.phases.items():
        if not NAME_PATTERN.fullmatch(name):
            raise ConfigurationError(
                f"{path}: phases.{name}: a phase's name is made of a-z, 0-9, _ and -.", hint="Rename the phase."
            )
        if not (challenge.folder / phase.data).is_dir():
            raise ConfigurationError(
                f"{path}: phases.{name}.data: there is no folder {challenge.folder / phase.data}.",
                hint="Put the phase's files there, or correct the path (it is relative to challenge.toml).",
            )
        for key, file in (("labels", phase.labels), ("metadata", phase.metadata)):
            if file is not None and not (challenge.folder / file).is_file():
                raise ConfigurationError(
                    f"{path}: phases.{name}.{key}: there is no file {challenge.folder / file}.",
                    hint="Correct the path (it is relative to challenge.toml), or remove the key.",
                )
        _check_data(challenge, path, name)


def _check_data(challenge: Challenge, path: Path, phase: str) -> None:
    """Submissions see all that lies in a data folder: it must hold nothing that they must not see, of any phase."""
    folder = (challenge.folder / challenge.phases[phase].data).resolve()
    for name, other in challenge.phases.items():
        for key, file in (("labels", other.labels), ("metadata", other.metadata)):
            if file is not None and (challenge.folder / file).resolve().is_relative_to(folder):
                whose = "" if name == phase else f" of the phase {phase}"
                raise ConfigurationError(
                    f"{path}: phases.{name}.{key}: the {key} lie in the data folder{whose}, where submissions could "
                    "read them.",
                    hint="Move them out of the data folder.",
                )
    if challenge.state_folder.resolve().is_relative_to(folder):
        raise ConfigurationError(
            f"{path}: phases.{phase}.data: {folder} holds {FILE_NAME} and what Referee keeps beside it.",
            hint="Give the phase's files a folder of their own.",
        )
