from __future__ import annotations

import builtins
import os
import signal

import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphopt.calibration.cluster import collect_on
from graphopt.calibration.core import collect
from graphopt.calibration.data import feeds_of
from graphopt.calibration.tapping import plan_of
from graphopt.errors import GraphoptError
from graphopt.ir import from_proto

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.timeout(240)

COUNT = 24


def network():
    rng = np.random.default_rng(0)
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 8, 8] x) => (float[N, 10] y) {
      c = Conv(x, w)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)  m = MatMul(f, v)  y = Sigmoid(m)
    }"""
    model = parser.parse_model(text)
    weights = {"w": rng.normal(size=(64, 3, 3, 3)), "v": rng.normal(size=(64, 10))}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(1)
    for index in range(COUNT):
        np.savez(folder / f"{index}.npz", x=rng.normal(size=(2, 3, 8, 8)).astype(np.float32) * (1 + index % 7))
    return folder


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50, memory_limit=None
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


MODEL = from_proto(network())
PLAN = plan_of(MODEL, "entropy", per_channel=True)


@pytest.fixture(scope="module")
def alone(folder):
    return collect(MODEL, feeds_of(folder, MODEL), PLAN)


def same(found, alone):
    assert found.to_bytes() == alone.to_bytes()
    for method in ("minmax", "entropy"):
        assert found.ranges(method).to_json() == alone.ranges(method).to_json()


def test_a_local_cluster_gives_the_same_bits(folder, alone):
    seen = []
    found = collect_on("local:2", MODEL, feeds_of(folder, MODEL), PLAN, progress=lambda *step: seen.append(step))
    same(found, alone)
    assert seen[0] == ("calibrating", 0, COUNT)
    assert seen[-1] == ("calibrating", COUNT, COUNT)


def test_a_client_and_samples_that_python_makes(folder, alone, client):
    feeds = list(feeds_of(folder, MODEL))
    for data in (feeds, iter(feeds), lambda: iter(feeds)):
        same(collect_on(client, MODEL, feeds_of(data, MODEL), PLAN), alone)


def test_an_address(folder, alone, client):
    same(collect_on(client.scheduler.address, MODEL, feeds_of(folder, MODEL), PLAN), alone)


def test_a_worker_that_is_killed_loses_nothing(folder, alone, client):
    killed = []

    def kill(stage, done, total):
        if done and not killed:
            killed.extend(client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    found = collect_on(client, MODEL, feeds_of(folder, MODEL), PLAN, progress=kill)
    same(found, alone)
    assert killed
    client.wait_for_workers(2, timeout=60)
    assert killed[0] not in client.run(os.getpid).values()


def test_samples_that_kill_every_worker(folder, client, monkeypatch):
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    monkeypatch.setattr("graphopt.calibration.cluster.run_shard", lambda *work: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(GraphoptError, match="lost its workers on the same samples"):
        collect_on(client, MODEL, feeds_of(folder, MODEL, samples=1), PLAN)
    client.wait_for_workers(2, timeout=60)


def test_going_on_from_the_first_samples(folder, alone, client):
    source = feeds_of(folder, MODEL)
    begun = collect(MODEL, source.part(0, 11), PLAN)
    kept = []
    found = collect_on(client, MODEL, source, PLAN, collection=begun, keep=lambda c: kept.append(sorted(c.seen)))
    same(found, alone)
    assert all(samples == list(range(len(samples))) for samples in kept)
    assert len(kept[0]) < COUNT


def test_bad_samples_are_named(folder, client, tmp_path):
    for index in range(8):
        np.savez(tmp_path / f"{index}.npz", x=np.full((2, 3, 8, 8), 1 if index < 7 else np.nan, np.float32))
    with pytest.raises(GraphoptError, match=r"7\.npz': 'x' contains NaN"):
        collect_on(client, MODEL, feeds_of(tmp_path, MODEL), PLAN)


def test_what_is_no_cluster(folder, monkeypatch):
    source = feeds_of(folder, MODEL)
    for cluster in ("local", "local:0", "localhost", 5):
        with pytest.raises(GraphoptError, match="is no cluster: give local:N"):
            collect_on(cluster, MODEL, source, PLAN)
    monkeypatch.setattr("graphopt.calibration.cluster.WAIT", 0.5)
    with pytest.raises(GraphoptError, match=r"no Dask scheduler at 'tcp://127\.0\.0\.1:9'"):
        collect_on("tcp://127.0.0.1:9", MODEL, source, PLAN)
    with pytest.raises(GraphoptError, match="no Dask scheduler at 'nonsense://a'"):
        collect_on("nonsense://a", MODEL, source, PLAN)


def test_a_cluster_without_workers(folder, monkeypatch):
    monkeypatch.setattr("graphopt.calibration.cluster.WAIT", 0.3)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        pytest.raises(GraphoptError, match="has no workers; start some"),
    ):
        collect_on(client, MODEL, feeds_of(folder, MODEL), PLAN)


def test_without_dask(folder, monkeypatch):
    real = builtins.__import__

    def importing(name, *more):
        if name in ("dask", "distributed"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(GraphoptError, match=r"pip install 'graphopt\[distributed\]'"):
        collect_on("local:2", MODEL, feeds_of(folder, MODEL), PLAN)
