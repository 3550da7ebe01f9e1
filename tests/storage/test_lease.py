"""A lock in an object store has one holder at a time, also after faults, kills and suspension."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.stores import S3, Store
from transforms.storage import lease
from transforms.storage.base import LockLost, SupportsConditionalWrites
from transforms.storage.lease import Lease, LockingUnsupported, hold_lease, read_epoch
from transforms.storage.lock_holder import LockTimedOut, Patience
from transforms.storage.processes import boot_id, pid_namespace
from transforms.storage.schemes import object_store, storage_of

PATIENCE_S = 30


def unexpected() -> None:
    raise AssertionError("must not be called")


def uri_of(store: Store) -> str:
    return f"{store.root}/.lock"


@contextmanager
def held(store: Store, client: SupportsConditionalWrites | None = None) -> Iterator[Lease]:
    """Hold the store's lock, which nobody else wants and nothing disturbs."""
    client = client or object_store(store.scheme)
    with hold_lease(client, uri_of(store), on_wait=unexpected, on_lost=unexpected) as lock:
        yield lock


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew and watch without a noticeable wait."""
    for name, seconds in {"RENEW_S": 0.05, "WATCH_S": 0.05, "POLL_S": 0.05}.items():
        monkeypatch.setattr(lease, name, seconds)


@pytest.mark.slow
def test_one_process_at_a_time_holds_a_lock(store: Store, fast: None) -> None:
    inside, most, waits, epochs = [0], [0], [], set()

    def work() -> None:
        with hold_lease(
            object_store(store.scheme),
            uri_of(store),
            on_wait=lambda: waits.append(1),
            on_lost=unexpected,
        ) as lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            threading.Event().wait(0.3)
            lock.assert_held(reread=True)
            epochs.add(lock.epoch)
            inside[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result()
    assert most == [1]
    assert waits
    assert len(epochs) == 4, "each holder has its own epoch"


def test_the_epoch_outlasts_renewal_and_release(store: Store, fast: None) -> None:
    storage, uri = storage_of(store.root), uri_of(store)
    assert read_epoch(storage, uri) is None
    with held(store) as lock:
        first = storage.stat(uri)
        while storage.stat(uri) == first:
            threading.Event().wait(0.01)
        assert read_epoch(storage, uri) == lock.epoch
    assert read_epoch(storage, uri) == lock.epoch
    with pytest.raises(LockLost):
        lock.assert_held()
    with held(store) as successor:
        assert read_epoch(storage, uri) == successor.epoch != lock.epoch


@pytest.mark.parametrize("store", [S3], indirect=True)
def test_a_lease_needs_conditional_writes(store: Store) -> None:
    store.fault("^PUT ", status=501)
    with pytest.raises(LockingUnsupported), held(store):
        pass


def test_a_store_that_ignores_conditions_is_refused(store: Store) -> None:
    class Careless:
        def __init__(self) -> None:
            self._store = object_store(store.scheme)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def compare_and_swap(self, uri: str, data: bytes, version: str | None) -> str | None:
            store.write(uri.removeprefix(f"{store.root}/"), data)
            return "1"

    with pytest.raises(LockingUnsupported), held(store, Careless()):
        pass


def test_a_missing_bucket_is_reported(store: Store) -> None:
    client, lock = object_store(store.scheme), f"{store.scheme}://no-such-bucket/.lock"
    with (
        pytest.raises(FileNotFoundError),
        hold_lease(client, lock, on_wait=unexpected, on_lost=unexpected),
    ):
        pass


def test_a_lease_that_is_not_renewed_lapses(
    store: Store, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LAPSE_S", 0.3)
    store.write(".lock", b'{"free": false, "boot": "another machine", "pid": 1}')
    waits: list[int] = []
    with hold_lease(
        object_store(store.scheme),
        uri_of(store),
        on_wait=lambda: waits.append(1),
        on_lost=unexpected,
    ):
        assert waits == [1]


def test_the_holder_of_a_lease_is_named_to_those_who_wait(store: Store) -> None:
    client, waits = object_store(store.scheme), []
    with held(store):
        holder = lease.read_holder(client, uri_of(store))
        assert holder is not None
        assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
        with (
            pytest.raises(LockTimedOut),
            hold_lease(
                client,
                uri_of(store),
                on_wait=lambda: waits.append(1),
                on_lost=unexpected,
                patience=Patience.of(0.1),
            ),
        ):
            pass
    assert waits == [1]
    with held(store) as lock:
        lock.assert_held(reread=True)


def test_the_lease_of_a_dead_process_is_taken_at_once(store: Store) -> None:
    dead = {"free": False, "boot": boot_id(), "pid_namespace": pid_namespace(), "pid": 4194304}
    store.write(".lock", json.dumps(dead).encode())
    with held(store):
        pass


@pytest.mark.slow
def test_a_lost_answer_does_not_lose_a_lease(store: Store, fast: None) -> None:
    store.fault("^(POST|PUT) ", count=1, after=True, reset=True)
    with held(store) as lock:
        assert store.hits() == [1]
        store.fault("^(POST|PUT) ", count=3, after=True, reset=True)
        while store.hits()[1] < 3:
            threading.Event().wait(0.01)
        lock.assert_held()
        store.clear_faults()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["taken", "unreachable", "hanging"])
def test_a_holder_that_loses_its_lease_is_notified(
    store: Store, fast: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The store's client retries for minutes, in which another process would take the lock."""
    monkeypatch.setattr(lease, "GIVE_UP_S", 0.5)
    lost, client = threading.Event(), object_store(store.scheme)
    with hold_lease(client, uri_of(store), on_wait=unexpected, on_lost=lost.set) as lock:
        if how == "taken":
            store.write(".lock", b"another's")
        else:
            store.fault(".", status=403 if how == "unreachable" else 503)
        assert lost.wait(PATIENCE_S)
        with pytest.raises(LockLost):
            lock.assert_held()
        store.clear_faults()


def test_a_taken_lock_is_noticed_before_the_next_renewal(store: Store) -> None:
    with held(store) as lock:
        lock.assert_held(reread=True)
        store.write(".lock", b'{"epoch": "of another holder", "free": false}')
        lock.assert_held()
        with pytest.raises(LockLost):
            lock.assert_held(reread=True)


def test_a_holder_that_was_suspended_gives_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLOCK_MONOTONIC stands still while a machine is suspended, CLOCK_BOOTTIME does not."""
    monkeypatch.setattr(lease, "WATCH_S", 0.05)
    lost, real, client = threading.Event(), time.clock_gettime, object_store(store.scheme)
    with hold_lease(client, uri_of(store), on_wait=unexpected, on_lost=lost.set) as lock:
        lock.assert_held()
        suspended_s = lease.LAPSE_S + 1
        monkeypatch.setattr(
            time,
            "clock_gettime",
            lambda clock: real(clock) + (suspended_s if clock == time.CLOCK_BOOTTIME else 0),
        )
        with pytest.raises(LockLost):
            lock.assert_held()
        assert lost.wait(PATIENCE_S)
