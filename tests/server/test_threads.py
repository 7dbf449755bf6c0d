"""The kernel's policy for threads that a gRPC library makes."""

import os
import threading

import pytest

from mixer.errors import StartError
from mixer.server import threads


def policy_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return seen[0]


def test_threads_made_meanwhile_are_batch_and_no_others() -> None:
    with threads.made_batch():
        assert policy_of_a_new_thread() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert policy_of_a_new_thread() == os.SCHED_OTHER


def test_a_policy_that_the_operator_chose_stays() -> None:
    seen: list[int] = []

    def chosen() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with threads.made_batch():
            pass
        seen.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=chosen)
    thread.start()
    thread.join()
    assert seen == [os.SCHED_BATCH]


def test_a_sandbox_that_forbids_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with threads.made_batch():
        assert policy_of_a_new_thread() == os.SCHED_OTHER


def test_a_system_without_an_idle_policy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with pytest.raises(
        StartError, match=r"workers.report_scheduling: the system does not allow idle: .*not perm"
    ):
        threads.yield_to_others()


def test_an_error_goes_through() -> None:
    with pytest.raises(OSError, match="address in use"), threads.made_batch():
        raise OSError("address in use")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
