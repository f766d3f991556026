"""The committed suites."""

from pathlib import Path

import pytest

PROMPTS = Path(__file__).parents[2] / "prompts"


@pytest.fixture(scope="session")
def suite_lines():
    def read(name):
        lines = (PROMPTS / f"{name}.txt").read_text().splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]

    return read
