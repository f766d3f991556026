"""Reading a user's copy of Dream Fields' captions, without running it."""

from pathlib import Path

import pytest

from harness.config import UserError
from harness.sweep.dreamfields import import_dreamfields


def _file(path: Path, captions: list[str], wrap: str = "queries = [{}]") -> Path:
    body = wrap.format(", ".join(map(repr, captions)))
    path.write_text(
        f'"""Doc."""\n{body}\nqueries = [q.lower() for q in queries]\nraise SystemExit("executed")\n'
    )
    return path


CAPTIONS = [f"A thing  with number {k}., " for k in range(153)]


@pytest.mark.parametrize("wrap", ["queries = [{}]", "QUERIES: tuple = ({},)"])
def test_captions_are_read_and_cleaned(tmp_path: Path, wrap: str):
    suite = import_dreamfields(_file(tmp_path / "q.py", CAPTIONS, wrap), "dreamfields")
    assert len(suite.prompts) == 153 and suite.prompts[7] == "a thing with number 7."


def test_neighbouring_literals_are_one_caption(tmp_path: Path):
    path = tmp_path / "q.py"
    path.write_text("q = ['a' ' red' ' bus', " + ", ".join(f"'thing {k}'" for k in range(152)) + "]")
    assert import_dreamfields(path, "d").prompts[0] == "a red bus."


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="found 152"):
        import_dreamfields(_file(tmp_path / "q.py", CAPTIONS[:-1]), "d")
    with pytest.raises(UserError, match="same prompt"):
        import_dreamfields(_file(tmp_path / "q.py", CAPTIONS[:-1] + CAPTIONS[:1]), "d")
    (tmp_path / "q.py").write_text("x = 1")
    with pytest.raises(UserError, match="found 0"):
        import_dreamfields(tmp_path / "q.py", "d")
    (tmp_path / "q.py").write_text("x = (")
    with pytest.raises(UserError, match="no Python file"):
        import_dreamfields(tmp_path / "q.py", "d")
    with pytest.raises(UserError, match="no file"):
        import_dreamfields(tmp_path / "none.py", "d")
