"""What the stack's roles and its bucket's policy let controller and workers do, kept to by a stand-in for IAM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import s3_world
from batch_world import KIND, STACK, batch_world
from referee.challenge import load_challenge
from referee.cloud.template import template
from referee.engines.aws_batch import AwsBatchEngine
from referee.engines.contract import Job, JobState
from referee.engines.waves import manifest_key
from referee.errors import ObjectStoreError
from referee.images.store import ImageStore
from referee.objects import AlreadyExistsError, ObjectStore
from referee.verdicts import Verdict
from referee.worker.publishing import RESULT, result_key
from s3_guard import guard_of
from worker_world import GOOD, eventually

pytestmark = pytest.mark.containers

SECONDS = 90.0
WORKER, CONTROLLER = "stand-in", "controller"  # the stand-in's jobs sign with the first
CHALLENGE = f"""
name = "c"
[phases.p]
data = "data"
visibility = "public"
[engine]
name = "aws-batch"
[engine.aws]
stack = "{STACK}"
[machines."c5.large"]
cpus = 2
memory = "4 GiB"
price = "0.085"
"""


@dataclass
class Bucket:
    """The stack's bucket, as the controller and as a worker sees it."""

    proxy: s3_world.Proxy
    controller: ObjectStore
    worker: ObjectStore


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    (tmp_path / "data").mkdir()
    (tmp_path / "challenge.toml").write_text(CHALLENGE)
    keeper = guard_of(template(load_challenge(tmp_path)), worker=WORKER, controller=CONTROLLER)
    with s3_world.service() as service, s3_world.proxy(service) as proxy:
        proxy.keeper = keeper
        stores = {}
        for who in (WORKER, CONTROLLER):
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", who)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            stores[who] = ObjectStore(service.location("", proxy.endpoint))
        yield Bucket(proxy, stores[CONTROLLER], stores[WORKER])


def test_a_role_s_own_objects_are_enough_from_the_import_to_the_note_of_a_doubled_worker(
    tmp_path: Path, bucket: Bucket
) -> None:
    with batch_world(tmp_path / "world", {f"{STACK}-c5-large": KIND}) as aws:
        world = aws.world
        world.objects, world.images = bucket.controller, ImageStore(tmp_path / "images", mirror=bucket.controller)
        bucket.controller.require_create_only()
        bucket.controller.put_once(
            f"phases/{world.data.digest.removeprefix('sha256:')}.json", world.data.model_dump_json().encode()
        )
        first, second = aws.engine(), aws.engine()
        first.bring(world.data)
        spec = world.spec(world.image(GOOD), machine_type="c5.large")
        second.capacity()  # it has looked before the other submits
        for engine in (first, second):
            [job] = engine.submit([spec])
            assert eventually(lambda engine=engine, job=job: _has_ended(engine, job), SECONDS)
        result = world.result(spec)
        assert result is not None
        assert result.verdict is Verdict.OK
        assert [key.split("/")[1] for key in bucket.controller.list("duplicates")] == [spec.attempt]
        waves = list(first._waves)
        assert aws.engine().adopt([spec.attempt])
        first.close()
    assert bucket.proxy.forbidden == []
    for key in (manifest_key(waves[0], 0), result_key(spec, RESULT)):
        with pytest.raises(ObjectStoreError):  # what is there stays, whoever wants to replace it
            bucket.controller.put(key, b"another")
        with pytest.raises(AlreadyExistsError):
            bucket.controller.put_once(key, b"another")


def _has_ended(engine: AwsBatchEngine, job: Job) -> bool:
    engine.wait(0.1)
    return engine.observe([job])[0].state is JobState.ENDED


def test_a_worker_lists_nothing_reads_no_intents_and_replaces_nothing(bucket: Bucket) -> None:
    bucket.controller.put_once("waves/w/0.json", b"manifest")
    bucket.controller.put_once("specs/a.json", b"specification")
    bucket.controller.put("nodes/aws-batch/up.json", b"machines")
    assert bucket.worker.get("waves/w/0.json") == b"manifest"
    for prefix in ("", "waves", "waves/w", "results", "claims"):
        with pytest.raises(ObjectStoreError):
            bucket.worker.list(prefix)
    for key in ("specs/a.json", "nodes/aws-batch/up.json", "maps/aws-batch/w.json"):
        with pytest.raises(ObjectStoreError):
            bucket.worker.get(key)
    for key in ("waves/w/1.json", "specs/b.json", "images/i.json", "blobs/b", "data/d", "nodes/n.json"):
        with pytest.raises(ObjectStoreError):
            bucket.worker.put_once(key, b"forged")
    assert bucket.worker.put_once("results/secret/result.json", b"one")
    for store in (bucket.worker, bucket.controller):
        with pytest.raises(ObjectStoreError):
            store.put("results/secret/result.json", b"two")
    assert bucket.worker.get("results/secret/result.json") == b"one"


def test_in_parts_nothing_that_counts_is_replaced_either(bucket: Bucket, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (17 << 20))
    assert bucket.controller.put_file("blobs/sha256/large", large)
    with pytest.raises(ObjectStoreError):
        bucket.controller.put_file("results/large/result.json", large)
    assert not bucket.controller.exists("results/large/result.json")
