"""SIGTERM, SIGUSR1 and Ctrl-C: the state is saved, the status says why, and all ranks stop at the same step."""

import os
import signal

import pytest
import torch
import torch.distributed as dist

from fastintl.distributed import World
from fastintl.distributed.agreement import Agreement
from fastintl.distributed.preemption import Preemption, Wish
from tests.helpers.ddp import run_ranks
from tests.helpers.processes import wait_for
from tests.helpers.training import assert_identical, command, last_state, saved_step, start, train


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(finished, images, tmp_path, number, status):
    process = start(command(tmp_path, images, train__save_minutes=1e-6), tmp_path / "output.txt")
    wait_for(lambda: saved_step(tmp_path) >= 3, process)
    process.send_signal(number)
    output = tmp_path / "output.txt"
    assert process.wait(60) == status, output.read_text()
    assert f"stopped by a signal at step {saved_step(tmp_path)}" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert saved_step(tmp_path) < 24
    assert train(tmp_path, images).returncode == 0
    assert_identical(last_state(finished), last_state(tmp_path))


def stop_of_rank(signalled: int, step_of_signal: int) -> int:
    world = World(dist.get_rank(), dist.get_world_size(), 0, torch.device("cpu"))
    with Preemption(Agreement(world)) as preemption:
        for step in range(100):
            if world.rank == signalled and step == step_of_signal:
                os.kill(os.getpid(), signal.SIGUSR1)
            if preemption.agreed():
                return step
    return -1


def agreements() -> tuple[int, bool, bool]:
    world = World(dist.get_rank(), dist.get_world_size(), 0, torch.device("cpu"))
    agreement = Agreement(world)
    return agreement.largest(world.rank), agreement.same(7), agreement.same(world.rank)


def stop_and_agreements() -> tuple:
    return stop_of_rank(1, 5), agreements()


def test_all_ranks_stop_at_the_same_step_when_one_is_signalled():
    """A step after the signal; and the ranks know the largest of their numbers, and whether they are the same."""
    assert run_ranks(stop_and_agreements, world_size=3) == [(6, (2, True, False))] * 3


def test_a_second_interrupt_ends_at_once():
    with Preemption(Agreement(World(0, 1, 0, None))) as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_of_several_wishes_the_largest_is_granted():
    with Preemption(Agreement(World(0, 1, 0, None))) as preemption:
        assert preemption.agreed(Wish.SAVE) is Wish.NONE  # a step later
        assert preemption.agreed() is Wish.SAVE
        os.kill(os.getpid(), signal.SIGUSR1)
        assert preemption.agreed(Wish.SAVE) is Wish.NONE
        assert preemption.agreed() is Wish.REQUEUE


def test_outside_of_training_the_signals_do_what_they_did():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption(Agreement(World(0, 1, 0, None))) as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.agreed_at_once() and preemption.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
