"""`challenge.toml`: every way of being wrong is one sentence with the place and the valid choices."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from referee.challenge import PRESETS, Challenge, load_challenge
from referee.cli import main
from referee.errors import ConfigurationError

MINIMAL = """
name = "small"
[phases.test]
data = "data"
labels = "labels.csv"
visibility = "private"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("filename,label\na.mp4,1\n")
    return tmp_path


def load(folder: Path, text: str) -> Challenge:
    (folder / "challenge.toml").write_text(text)
    return load_challenge(folder)


def test_a_minimal_challenge_has_defaults_for_all_else(folder: Path) -> None:
    challenge = load(folder, MINIMAL)
    assert challenge.metric.name == "log_loss"
    assert challenge.contract.data == "/data"
    assert challenge.finals_per_team == 2
    assert challenge.folder == folder.resolve()


WRONG = [
    ("nmae = 'x'", "nmae: there is no such key. Did you mean `name`?"),
    ("[limits]\nwalltime = '9h'", "limits.walltime: there is no such key. Did you mean `wall_time`?"),
    ("[limits]\nwall_time = 9", "limits.wall_time: 9 is not a duration"),
    ("[limits]\nmemory = '4 gigs'", "limits.memory: '4 gigs' is not a size"),
    ("[limits]\npids = 1", "limits.pids: input should be greater than or equal to 16"),
    ("[contract]\nrootfs = 'rw'", "contract.rootfs: 'rw' is not one of 'read_only' or 'scratch'"),
    ("[contract]\ndata = '/proc/x'", "contract.data: '/proc/x' lies under a folder that belongs to the sandbox"),
    ("[contract]\ndata = '../x'", "contract.data: '../x' is not a plain absolute path"),
    ("[contract]\npredictions = 'a/b'", "contract.predictions: 'a/b' is not a plain file name"),
    ("[contract]\noutput = '/data/out'", "contract: output: /data/out lies in /data, which has another purpose"),
    ("[contract]\ndata = '/tmp/data'", "contract: data: /tmp/data lies in /tmp, which has another purpose"),
    ("[metric]\nepsilon = 0.7", "metric.epsilon: input should be less than 0.5"),
    ("[machines.m]\ncpus = 4\nmemory = '8GiB'\nprice = 0.5", "machines.m.price: 0.5 is not an amount of money"),
    ("[machines.m]\nmemory = '8GiB'", "machines.m.cpus: this key is required"),
    ("[phases.extra]\ndata = 'nowhere'\nvisibility = 'public'", "phases.extra.data: there is no folder"),
    (
        "[phases.extra]\ndata = 'data'\nlabels = 'no.csv'\nvisibility = 'public'",
        "phases.extra.labels: there is no file",
    ),
    (
        "[phases.extra]\ndata = 'data'\nlabels = 'data/a.mp4'\nvisibility = 'public'",
        "the labels lie in the data folder",
    ),
    ("[phases.Extra]\ndata = 'data'\nvisibility = 'public'", "phases.Extra: a phase's name is made of"),
    ("[sandbox]\nlevel = 'docker'", "sandbox.level: 'docker' is not one of 'runc' or 'gvisor'"),
    ("budget = 12.5", "budget: 12.5 is not an amount of money"),
    ("deadline = 'soon'", "deadline: "),
    ("deadline = 2030-01-31T12:00:00", "deadline: 2030-01-31 12:00:00 has no time zone"),
    ("[engine]\nname = 'aws-batch'\naws.stack = '../Up x'", "engine.aws.stack: "),
    (
        "[phases.extra]\ndata = '.'\nvisibility = 'public'",
        "phases.test.labels: the labels lie in the data folder of the phase extra",
    ),
    (
        "[phases.extra]\ndata = 'data'\nmetadata = 'data/a.mp4'\nvisibility = 'public'",
        "phases.extra.metadata: the metadata lie in the data folder",
    ),
    ("folder = '/'", "folder: there is no such key"),
    ("name = ", "is not valid TOML"),
]


@pytest.mark.parametrize(("line", "sentence"), WRONG, ids=[line for line, _ in WRONG])
def test_each_mistake_is_one_sentence_with_its_place(folder: Path, line: str, sentence: str) -> None:
    text = line + MINIMAL if not line.startswith("[") else MINIMAL + line
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text)
    assert sentence in caught.value.message
    assert caught.value.hint


def test_a_name_is_made_of_few_characters_from_its_first_to_its_last(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"name: .*\.\./Up x"):
        load(folder, MINIMAL.replace('"small"', '"../Up x"'))


def test_a_folder_of_data_must_not_hold_what_referee_keeps(folder: Path) -> None:
    (folder / "labels").mkdir()
    (folder / "labels" / "test.csv").write_text("filename,label\n")
    text = MINIMAL.replace('data = "data"', 'data = "."').replace('labels = "labels.csv"\n', "")
    with pytest.raises(ConfigurationError, match=r"phases\.test\.data: .*challenge\.toml"):
        load(folder, text)


def test_all_mistakes_are_reported_at_once(folder: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, MINIMAL + "[limits]\nwall_time = 9\nmemory = 'much'\n")
    assert "limits.wall_time" in caught.value.message
    assert "limits.memory" in caught.value.message


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_paths_and_a_single_key_overrides_it(folder: Path, preset: str) -> None:
    contract = load(folder, MINIMAL + f"[contract]\npreset = '{preset}'\npredictions = 'mine.csv'\n").contract
    assert contract.predictions == "mine.csv"
    for key, value in PRESETS[preset].items():
        assert getattr(contract, key) == value


def test_init_makes_a_challenge_that_validates_and_refuses_to_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "My Challenge")]) == 0
    assert load_challenge(tmp_path / "My Challenge").name == "my-challenge"
    assert main(["init", str(tmp_path / "My Challenge")]) == 2
    assert "exists already" in capsys.readouterr().err


def documented_keys() -> set[str]:
    template = resources.files("referee.cli").joinpath("challenge_template.toml").read_text(encoding="utf-8")
    lines = []
    for line in template.splitlines():
        bare = line.removeprefix("# ")
        is_key = bare.split(" ")[0].isidentifier() and " = " in bare
        is_table = bare.startswith("[") and "]" in bare
        lines.append(bare if is_key or is_table else "")
    return set(_paths(tomllib.loads("\n".join(lines))))


def _paths(table: dict[str, object], prefix: str = "") -> list[str]:
    found = []
    for key, value in table.items():
        found.append(prefix + key)
        if isinstance(value, dict) and key != "environment":
            found += _paths(value, f"{prefix}{key}.")
    return found


def test_every_key_is_explained_in_the_template() -> None:
    documented = documented_keys()
    missing = []
    for name, field in Challenge.model_fields.items():
        model = field.annotation
        if name == "folder":
            continue
        if name not in documented:
            missing.append(name)
        prefix = {"phases": "phases.private_test.", "machines": "machines.local."}.get(name, f"{name}.")
        inner = getattr(model, "__args__", (None, model))[-1] if name in {"phases", "machines"} else model
        for key in getattr(inner, "model_fields", {}):
            if prefix + key not in documented:
                missing.append(prefix + key)
    assert not missing
