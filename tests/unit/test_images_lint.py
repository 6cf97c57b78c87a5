"""What a configuration asks for is refused, ignored with a sentence, or honoured."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_layouts import configuration
from referee.challenge import Contract
from referee.errors import ImageError
from referee.images.lint import lint_against, lint_configuration, lint_layers
from referee.images.manifest import Configuration, Index, Manifest, read_manifest, read_model, strict_json
from referee.images.model import ImageConfig, ImageRecord, LayerFacts

_DIGEST = "sha256:" + "0" * 64


def _lint(**run: Any) -> tuple[ImageConfig, tuple[str, ...]]:
    data = json.dumps(configuration([], **run)).encode()
    return lint_configuration(read_model(Configuration, data, "configuration"), "amd64")


def test_what_a_sandbox_honours() -> None:
    config, findings = _lint(
        Entrypoint=["/run"],
        Cmd=["--all"],
        Env=["A=b=c", "EMPTY="],
        WorkingDir="/app/",
        User="app:users",
        Labels={"x": "y"},
    )
    assert config == ImageConfig(
        entrypoint=("/run",),
        command=("--all",),
        environment=("A=b=c", "EMPTY="),
        working_folder="/app",
        user="app:users",
    )
    assert findings == ()


@pytest.mark.parametrize(
    ("run", "word"),
    [
        ({"Volumes": {"/data": {}}}, 'VOLUME "/data" is ignored'),
        ({"Healthcheck": {"Test": ["CMD", "x"]}}, "HEALTHCHECK is ignored"),
        ({"OnBuild": ["RUN x"]}, "ONBUILD is ignored"),
        ({"ExposedPorts": {"80/tcp": {}}}, "EXPOSE is ignored"),
        ({"StopSignal": "SIGINT"}, 'STOPSIGNAL "SIGINT" is ignored'),
        ({"User": ""}, "USER is root"),
        ({"User": "0:0"}, "USER is root"),
        ({"User": "app", "Env": ["NONAME", "=x"]}, "ENV entries"),
    ],
)
def test_what_is_ignored_is_said(run: dict[str, Any], word: str) -> None:
    _, findings = _lint(**{"User": "app", **run})
    assert len(findings) == 1
    assert findings[0].startswith(word)


@pytest.mark.parametrize(
    ("run", "word"),
    [
        ({"Cmd": None}, "ENTRYPOINT"),
        ({"Cmd": []}, "ENTRYPOINT"),
        ({"Cmd": [""]}, "ENTRYPOINT"),
        ({"Entrypoint": [""], "Cmd": ["x"]}, "ENTRYPOINT"),
        ({"Cmd": ["a\0b"]}, "NUL"),
        ({"Cmd": ["x" * 30_000] * 5}, "too long"),
        ({"Env": ["A=\0"]}, "NUL"),
        ({"Env": ["A=" + "x" * 30_000] * 5}, "too long"),
        ({"Env": [1]}, "not usable"),
        ({"Cmd": "a string"}, "not usable"),
        ({"WorkingDir": "/proc/self/fd/7"}, "WORKDIR"),
        ({"WorkingDir": "//proc/self/fd/7"}, "WORKDIR"),
        ({"WorkingDir": "/app/../proc/self/fd/7"}, "WORKDIR"),
        ({"WorkingDir": "/./proc/self/fd/7"}, "WORKDIR"),
        ({"WorkingDir": "/sys"}, "WORKDIR"),
        ({"WorkingDir": "app"}, "WORKDIR"),
        ({"WorkingDir": "/app\0"}, "WORKDIR"),
        ({"User": "-u"}, "USER"),
        ({"User": "a b"}, "USER"),
        ({"User": "a:b:c"}, "USER"),
        ({"User": "../etc"}, "USER"),
    ],
)
def test_what_no_container_can_be_made_from_is_refused(run: dict[str, Any], word: str) -> None:
    with pytest.raises(ImageError, match=word) as caught:
        _lint(**run)
    assert caught.value.hint


def test_counts_of_layers_become_sentences() -> None:
    layer = LayerFacts(
        digest=_DIGEST, diff_id=_DIGEST, stored_bytes=1, unpacked_bytes=1, disk_bytes=1, entries=1,
        setuid=7, special=1, examples={"setuid": ('"/bin/su"',), "special": ('"/dev/sda"',)},
    )  # fmt: skip
    assert lint_layers([layer]) == (
        '7 files have the setuid or setgid bit, which is dropped: "/bin/su", ….',
        '1 device nodes or FIFOs are left out (the sandbox has its own /dev): "/dev/sda".',
    )


def _layers(*shallow: dict[str, str]) -> list[LayerFacts]:
    return [
        LayerFacts(
            digest=_DIGEST, diff_id=_DIGEST, stored_bytes=0, unpacked_bytes=0, disk_bytes=0, entries=0, shallow=each
        )
        for each in shallow
    ]


_DRIVEN = Contract(preset="drivendata")


@pytest.mark.parametrize(
    ("contract", "layers", "problem"),
    [
        (Contract(), [{}], None),
        (Contract(), [{"data": "d", "output": "d", "tmp": "d"}], None),
        (Contract(), [{"data": "l"}], "/data is a symbolic link"),
        (Contract(), [{"output": "f"}], "/output is not a folder"),
        (Contract(), [{"tmp": "l"}], "/tmp is a symbolic link"),
        (Contract(), [{"proc": "l"}], "/proc is a symbolic link"),
        (Contract(), [{"data": "l"}, {"data": "w"}], None),
        (Contract(), [{"data": "l"}, {"data": "d"}], None),
        (Contract(), [{"data": "d"}, {"data": "l"}], "/data is a symbolic link"),
        (_DRIVEN, [{"code_execution": "l"}], "/code_execution is a symbolic link"),
        (_DRIVEN, [{"code_execution": "d", "code_execution/data": "l"}], "/code_execution/data is a symbolic link"),
        (_DRIVEN, [{"code_execution/data": "l"}, {"code_execution": "w"}], None),
        (_DRIVEN, [{"code_execution/data": "l"}, {"code_execution": "o"}], None),
        (_DRIVEN, [{"code_execution/data": "l"}, {"code_execution": "d"}], "/code_execution/data is a symbolic link"),
    ],
)
def test_paths_of_the_contract_must_be_free(
    contract: Contract, layers: list[dict[str, str]], problem: str | None
) -> None:
    found = lint_against(_record(), _layers(*layers), contract)
    assert bool(found) == bool(problem)
    assert all(text.startswith(problem or "") for text in found)


def _record(user: str = "") -> ImageRecord:
    return ImageRecord(
        digest=_DIGEST, config_digest=_DIGEST, architecture="amd64", layers=(), diff_ids=(), stored_bytes=0,
        unpacked_bytes=0, config=ImageConfig(user=user),
    )  # fmt: skip


def test_a_user_that_cannot_be_mapped_matters_only_where_it_is_kept() -> None:
    assert lint_against(_record("100000:5"), [], Contract(user="unprivileged")) == ()
    assert len(lint_against(_record("100000:5"), [], Contract(user="image"))) == 1


_BLOB = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": _DIGEST, "size": 1}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "\\ud800"}', "not valid JSON"),
        ("[]", "not a JSON object"),
        ("", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ('{"a": "' + "x" * (5 << 20) + '"}', "larger than 4 MiB"),
    ],
    ids=lambda text: text[:12],
)
def test_json_is_read_strictly(text: str, word: str) -> None:
    with pytest.raises(ImageError, match=word):
        strict_json(text.encode(), "manifest")


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [_BLOB | {"digest": "sha256:../../../../etc/passwd"}]},
        {"layers": [_BLOB | {"digest": _DIGEST + "\n"}]},
        {"layers": [_BLOB | {"digest": "sha512:" + "0" * 128}]},
        {"layers": [_BLOB | {"size": -1}]},
        {"layers": [_BLOB | {"size": "1"}]},
        {"layers": [_BLOB | {"size": 1e300}]},
        {"layers": [_BLOB | {"urls": ["http://127.0.0.1/"]}]},
        {"layers": [_BLOB | {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar"}]},
        {"layers": [_BLOB] * 121},
        {"layers": None},
        {"config": None},
    ],
)
def test_manifests_are_read_strictly(change: dict[str, Any]) -> None:
    good = {"config": _BLOB, "layers": [_BLOB], "annotations": {"x": "y"}}
    assert read_manifest(json.dumps(good).encode()).layers[0].digest == _DIGEST
    with pytest.raises(ImageError):
        read_manifest(json.dumps(good | change).encode())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["config", "layers", "os"]), inner),
)


@settings(max_examples=200)
@given(data=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_nothing_but_an_image_error_comes_out_of_noise(data: bytes) -> None:
    for model in (Manifest, Index, Configuration):
        with contextlib.suppress(ImageError):
            read_model(model, data, "manifest")
