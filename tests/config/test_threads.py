"""How threads wait, and that whoever changes their number gives it back."""

import os
import subprocess
import sys

import pytest
import torch

from harness.config import ViewsConfig
from harness.threads import ASLEEP, CHOICES, torch_threads, wait_asleep
from harness.toyworld.render import ground_truth


def test_threads_sleep_unless_the_user_has_chosen():
    environment = {"PATH": "/bin"}
    wait_asleep(environment)
    assert environment == {"PATH": "/bin"} | ASLEEP
    for name in CHOICES:
        chosen = {name: "7"}
        wait_asleep(chosen)
        assert chosen == {name: "7"}


def test_the_command_line_decides_before_openmp_is_loaded_and_an_import_decides_nothing():
    """libgomp itself tells how its threads wait, when torch loads it."""
    code = (
        "import os, sys; before = dict(os.environ); import harness.cli; assert dict(os.environ) == before; "
        "sys.argv = ['harness', 'methods']\n"
        "try: harness.cli.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules; import torch"
    )
    for chosen, policy in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        clean = {name: value for name, value in os.environ.items() if name not in CHOICES}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=clean | chosen | {"OMP_DISPLAY_ENV": "TRUE"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        if "_OPENMP" not in done.stderr:
            pytest.skip("this OpenMP does not tell its settings")
        assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


def test_the_number_of_threads_is_what_it_was_after_an_error_and_after_numbas_own_threads():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
    with torch_threads(before + 2):
        ground_truth("a red cup", ViewsConfig(azimuths=1))
        assert torch.get_num_threads() == before + 2
