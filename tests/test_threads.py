"""How threads wait is chosen by time alone, and changes no number; how many there are never changes within a run."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from axform.core import cores
from axform.errors import AxformError
from axform.toolchain import threads
from axform.toolchain.optimize import optimize
from axform.toolchain.run_folder import RunFolder
from axform.toolchain.threads import IdleTeam, ThreadTuner, computing_with, default_threads, timed_step
from support import random_batch, tiny_model

LIBRARIES = threads._gnu_openmp()
needs_gnu_openmp = pytest.mark.skipif(not LIBRARIES, reason="this torch comes with another OpenMP")


class Machine:
    """Steps take the seconds that ``pace`` says for threads that sleep (True) or spin (False)."""

    def __init__(self, spinning, sleeping):
        self.pace = {False: spinning, True: sleeping}
        self.asleep = False
        self.now = 0.0
        self.tuner = ThreadTuner(self.sleep, clock=lambda: self.now)
        self.steps = []

    def sleep(self, asleep):
        self.asleep = asleep

    def run(self, steps, kind="training", work=1.0):
        for _ in range(steps):
            with self.tuner.step(kind, work):
                self.steps.append(self.asleep)
                self.now += self.pace[self.asleep] * work
        return self.now


@pytest.mark.parametrize(
    ("spinning", "sleeping", "asleep"), [(1.0, 1.3, False), (5.0, 1.0, True), (1.0, 1.02, True), (1.0, 0.9, True)]
)
def test_the_faster_way_is_kept_and_a_near_tie_sleeps(spinning, sleeping, asleep):
    machine = Machine(spinning, sleeping)
    machine.run(10)
    assert machine.asleep is asleep
    assert machine.steps[:3] == [False, False, True], "the first step warms up, then both ways in turn"


def test_a_collapse_is_tried_for_one_step_only():
    machine = Machine(spinning=20.0, sleeping=1.0)
    machine.run(50)
    assert machine.steps[1:].count(False) == 1 and machine.asleep


def test_a_neighbour_that_comes_and_goes_is_noticed():
    machine = Machine(spinning=1.0, sleeping=1.3)
    machine.run(100)
    assert not machine.asleep
    machine.pace = {False: 5.0, True: 1.5}
    before = machine.now
    machine.run(100)
    assert machine.asleep and machine.now - before < 1.5 * 100 * 1.3
    machine.pace = {False: 1.0, True: 1.3}
    machine.run(300)
    assert not machine.asleep


def test_comparisons_cost_a_bounded_share_however_the_paces_jump():
    machine = Machine(spinning=1.0, sleeping=1.0)
    generator = random.Random(0)
    best = 0.0
    for _ in range(3000):
        machine.pace = {True: 1.0, False: generator.choice([8.0, 12.0])}
        machine.run(1)
        best += 1.0
    assert machine.now / best < 1.06


def test_large_and_small_steps_compare_by_their_work():
    machine = Machine(spinning=1.0, sleeping=1.3)
    machine.run(20)
    settled = len(machine.steps)
    for _ in range(20):
        machine.run(1, work=0.1)
        machine.run(2, work=10.0)
    assert True not in machine.steps[settled:], "a large step is no slow step"


def test_another_kind_of_work_is_compared_on_its_own():
    machine = Machine(spinning=1.0, sleeping=1.3)
    machine.run(20, "training")
    machine.pace = {False: 0.3, True: 0.1}
    machine.run(30, "evaluation")
    assert machine.asleep
    machine.pace = {False: 1.0, True: 1.3}
    machine.run(1, "training")
    assert not machine.asleep


def test_a_step_that_fails_counts_for_nothing():
    machine = Machine(spinning=1.0, sleeping=1.3)
    machine.run(20)
    for _ in range(3):
        with pytest.raises(KeyError), machine.tuner.step("training"):
            machine.now += 100
            raise KeyError
    machine.run(1)
    assert not machine.asleep


@needs_gnu_openmp
def test_waiting_changes_no_bit_of_losses_and_gradients():
    loaded = tiny_model("bert")
    batch = random_batch(loaded, random.Random(0), (16, 32))

    def numbers():
        loaded.model.zero_grad()
        logits = loaded.model(**batch).logits
        logits.square().sum().backward()
        return [logits.detach().clone(), *(parameter.grad.clone() for parameter in loaded.model.parameters())]

    team = IdleTeam(LIBRARIES)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        spinning = numbers()
        team(True)
        sleeping = numbers()
    finally:
        team(False)
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(spinning, sleeping, strict=True))


@needs_gnu_openmp
def test_the_idle_team_outnumbers_the_cores_and_leaves():
    def running():
        return {path.name for path in Path("/proc/self/task").iterdir()}

    before = running()
    team = IdleTeam(LIBRARIES)
    team(True)
    members = running() - before
    assert len(members) > len(os.sched_getaffinity(0))
    team(False)
    deadline = time.monotonic() + 10
    while members & running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not members & running()


@pytest.fixture
def learned(monkeypatch):
    """What a step of this process told its tuner, with an OpenMP that can be told to sleep."""
    told = []
    for name in threads._WAIT_POLICIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_gnu_openmp", lambda: ["libgomp"])
    monkeypatch.setattr(threads, "IdleTeam", lambda _: Mock(size=3))
    monkeypatch.setattr(threads._Choice, "learn", lambda self, *arguments: told.append(arguments))
    threads._process_tuner.cache_clear()
    yield told
    threads._process_tuner.cache_clear()


def step_with(count):
    with computing_with(count), timed_step("training"):
        assert torch.get_num_threads() == count


def test_steps_are_timed_where_threads_wait_for_each_other(learned):
    before = torch.get_num_threads()
    step_with(1)
    assert not learned
    step_with(2)
    assert len(learned) == 1 and torch.get_num_threads() == before


@pytest.mark.parametrize("name", threads._WAIT_POLICIES)
def test_a_policy_that_the_user_chose_stays(monkeypatch, learned, name):
    monkeypatch.setenv(name, "passive")
    step_with(2)
    assert not learned


def test_without_room_for_more_threads_they_wait_as_they_do(monkeypatch, learned):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    step_with(2)
    assert not learned


def test_threads_are_those_of_the_user_else_of_the_usable_cores(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    with computing_with(4):
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert default_threads() == 4
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert default_threads() == 2


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({}, float("inf")),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"a/b/cpu.max": "150000 100000\n", "cpu.max": "max 100000\n"}, 1.5),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu.max": "nonsense"}, float("inf")),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path, files, granted):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores._quota(tmp_path / "a" / "b", tmp_path) == granted


def test_a_run_keeps_the_threads_that_it_was_started_with(finished, monkeypatch, tmp_path):
    assert RunFolder(finished[0]).read_options().threads == torch.get_num_threads()
    folder = Path(shutil.copytree(finished[0], tmp_path / "run"))
    (folder / "run.json").unlink()
    options = RunFolder(folder).read_options()
    used = []
    monkeypatch.setattr("axform.toolchain.optimize.default_threads", lambda: 7)
    monkeypatch.setattr("axform.toolchain.stages.Stages.execute", lambda self: used.append(torch.get_num_threads()))
    with pytest.raises(AxformError, match="not finished"):
        optimize(options.model_copy(update={"threads": None}), folder, resume=True)
    assert used == [options.threads]
    with pytest.raises(AxformError, match="was started with threads = 1, now 2"):
        optimize(options.model_copy(update={"threads": 2}), folder, resume=True)
