"""Two agents of torchrun, as on two nodes: a lost worker and a signalled one cost no step."""

import signal

import pytest

from fastintl.distributed.elastic import require_restartable
from loaders import UserError
from tests.elastic import ended, free_port, signal_worker, start_agent, wait_for_steps
from tests.helpers.processes import TIME_LIMIT_S
from tests.helpers.training import assert_identical, last_state, saved_step


def test_two_agents_that_lose_a_worker_end_with_the_same_weights(finished_by_two, images, tmp_path):
    port = free_port()
    logs = [tmp_path / f"agent{i}.log" for i in range(2)]
    agents = [start_agent(i, tmp_path, images, port, logs[i], train__save_minutes=1e-6) for i in range(2)]
    with ended(agents):
        wait_for_steps(tmp_path, 3, agents[0])
        signal_worker(agents[1], signal.SIGKILL)
        wait_for_steps(tmp_path, 3, agents[0])
        assert saved_step(tmp_path) < 24
        signal_worker(agents[0], signal.SIGUSR1)
        statuses = [agent.wait(TIME_LIMIT_S) for agent in agents]
    said = logs[0].read_text() + logs[1].read_text()
    assert statuses == [0, 0], said
    assert "stopped by a signal at step" in said and "exitcode: -9" in said and "exitcode: 75" in said
    assert_identical(last_state(finished_by_two), last_state(tmp_path))


def test_a_launch_whose_restarts_would_not_connect_is_refused(monkeypatch):
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    require_restartable()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(UserError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        require_restartable()
