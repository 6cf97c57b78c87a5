"""What an image says about its users: whatever stands there, it is the image's doing and never a failure of ours."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from referee.challenge import Contract, Limits
from referee.images.model import ImageConfig
from referee.sandbox.policy import sandbox_policy
from referee.sandbox.rootfs import BadImageError, ImageView, Process, plan_process

_LONG = "9" * 5000  # more digits than Python turns into a number


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/true", tmp_path / "bin" / "run")
    loader = next(Path("/").glob("lib64/ld-linux-*"), None)
    if loader is not None:
        (tmp_path / "lib64").mkdir()
        shutil.copy(loader, tmp_path / "lib64" / loader.name)
    return tmp_path


def _plan(root: Path, user: str, *, passwd: str = "", group: str = "") -> Process:
    (root / "etc" / "passwd").write_text(passwd)
    (root / "etc" / "group").write_text(group)
    view = ImageView(root)
    try:
        config = ImageConfig(entrypoint=("/bin/run",), user=user)
        return plan_process(sandbox_policy(Contract(user="image"), Limits()), config, "amd64", view)
    finally:
        view.close()


@pytest.mark.parametrize(
    ("user", "passwd", "group"),
    [
        ("app", f"app:x:{_LONG}:0::/:/bin/sh\n", ""),
        ("app:more", "app:x:5:0::/:/bin/sh\n", f"more:x:{_LONG}:\n"),
        ("app", "app:x:70000:0::/:/bin/sh\n", ""),
    ],
)
def test_an_id_that_nobody_can_have_is_the_image_s_doing(root: Path, user: str, passwd: str, group: str) -> None:
    with pytest.raises(BadImageError):
        _plan(root, user, passwd=passwd, group=group)


def test_lines_about_others_do_not_matter(root: Path) -> None:
    planned = _plan(
        root,
        "app",
        passwd=f"other:x:{_LONG}:0::/:\napp:x:5:{_LONG}::/a\0b:/bin/sh\n",
        group=f"huge:x:{_LONG}:app\nvideo:x:44:app\n",
    )
    assert (planned.uid, planned.gid, planned.groups) == (5, 0, (44,))
    assert dict(planned.environment)["HOME"] == "/"
