import pytest

from mdlm_atat.training.engine import launched_processes

LAUNCHES = {
    "plain": ({}, (1, 1)),
    "torchrun, 8 on one machine": ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}, (8, 8)),
    "torchrun, 2 machines": ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, (16, 8)),
    "srun, 2 machines": (
        {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "16", "SLURM_STEP_TASKS_PER_NODE": "8(x2)"},
        (16, 8),
    ),
    "a shell inside a SLURM job of 4 tasks": ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, (1, 1)),
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_the_number_of_processes_is_read_from_what_launched_them(launch):
    environment, expected = LAUNCHES[launch]
    assert launched_processes(environment) == expected
