"""The image for clusters: its profile, and its Dockerfile's steps by hand on a bare Debian."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm import profile

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "slurm" / "containers"
BARE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Debian's PATH
STEPS = [
    line.split(None, 1)
    for line in (FOLDER / "Dockerfile").read_text().splitlines()
    if line and not line.startswith("#")
]


def test_both_images_take_the_same_steps_and_the_profile_starts_one():
    recipe = (FOLDER / "apptainer.def").read_text()
    assert ["RUN", "slurm/containers/install.sh"] in STEPS and "    slurm/containers/install.sh\n" in recipe
    base = dict(STEPS)["FROM"]  # type: ignore[arg-type]
    assert f"From: {base}\n" in recipe
    python = profile.load("apptainer").python
    assert python and python.split()[:2] == ["apptainer", "exec"] and python.endswith("harness.sif python")


@pytest.mark.long
def test_its_steps_make_a_harness_that_sweeps(tmp_path: Path):
    """Root and debootstrap; packages come from where this machine's come from."""
    if os.geteuid() or not shutil.which("debootstrap"):
        pytest.skip("needs root and debootstrap")
    root = tmp_path / "root"
    site = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Codename: bookworm", "Component: main"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root, site[0]], check=True)
    for name in (
        "etc/resolv.conf",
        "etc/hosts",
        "etc/pip.conf",
        "etc/apt/sources.list.d",
        "etc/apt/apt.conf.d",
    ):
        if (there := Path("/") / name).is_dir():
            shutil.copytree(there, root / name, dirs_exist_ok=True)
        elif there.exists():
            shutil.copy(there, root / name)
    pip = {"PIP_DEFAULT_TIMEOUT": "180"}
    if authority := os.environ.get("PIP_CERT"):
        shutil.copy(authority, root / "authority.pem")
        pip["PIP_CERT"] = "/authority.pem"
    folder, environment, command = "/", {"HOME": "/root"}, []
    mounted = [root / name for name in ("proc", "dev")]
    for place in mounted:
        subprocess.run(["mount", "--rbind", f"/{place.name}", place], check=True)
    try:

        def inside(*words: str) -> subprocess.CompletedProcess[str]:
            path = environment.get("PATH", "$PATH").replace("$PATH", BARE)
            asked = pip | environment | {"PATH": path}
            line = f"cd {folder} && exec {shlex.join(words)}"
            whole = ["chroot", root, "/usr/bin/env", "-i", *(f"{k}={v}" for k, v in asked.items())]
            return subprocess.run([*whole, "sh", "-c", line], text=True, check=True, stdout=subprocess.PIPE)

        for step, rest in STEPS:
            match step:
                case "WORKDIR":
                    folder = rest
                    (root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    listed = subprocess.run(
                        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
                    )
                    for name in listed.stdout.decode().strip("\0").split("\0"):
                        to = root / folder.lstrip("/") / name
                        to.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(ROOT / name, to)
                case "RUN":
                    inside(*shlex.split(rest))
                case "ENV":
                    environment |= dict(pair.split("=", 1) for pair in rest.split())
                case "ENTRYPOINT":
                    command = json.loads(rest)
        assert "harness" in inside(*command, "--version").stdout
        inside(*command, "sweep", "--prompt", "a red car", "--methods", "uniform_sds", "--steps", "2")
        assert " 2/2 " in inside(*command, "status", "runs").stdout
    finally:
        for place in reversed(mounted):
            subprocess.run(["umount", "--recursive", "--lazy", place], check=True)
