"""docs/scale.md: the tests that it names exist, its commands parse, and the SLURM script of one run works with stand-ins for SLURM."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fallline.cli.main import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
STUDY, RUN = (block for block in BLOCKS if block.startswith("#!"))


def test_every_test_that_the_page_names_exists():
    source = "".join(p.read_text() for folder in ("lab", "distributed") for p in (ROOT / "tests" / folder).glob("*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if f"def {name}" not in source] == []


def test_every_fallline_command_of_the_page_parses():
    lines = [line.replace("\\\n", " ") for line in "\n".join(BLOCKS).replace("\\\n", " ").splitlines()]
    found = [re.search(r"fallline ((?:compare|resume|run) .*)", line) for line in lines]
    commands = [match.group(1).split() for match in found if match]
    assert len(commands) == 8
    for command in commands:
        app.parse_args(command, exit_on_error=False, print_error=False)


@pytest.fixture
def slurm(tmp_path):
    """A folder with srun, which runs its command here, and scontrol, which knows this machine; and the job's variables."""
    stand_ins = {
        "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
        "scontrol": "echo 127.0.0.1",
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2"}
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        **job,
        "PYTHONPATH": paths,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.slow
def test_the_script_of_one_run_starts_and_restarts(slurm, tmp_path):
    task = f"{Path(__file__).parent / 'run_tasks.py'}:make_task"
    text = RUN.replace("shakespeare-gpt", task).replace("PER_NODE=4", "PER_NODE=2").replace(":29500", ":29517")
    for note in ("", "goes on after step 12 of 12"):
        result = subprocess.run(
            ["bash", "-c", text], cwd=tmp_path, env=slurm, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
        assert "final MSE" in result.stdout
        assert note in result.stdout


def test_the_script_of_a_study_is_correct_shell():
    result = subprocess.run(["bash", "-n"], input=STUDY, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
