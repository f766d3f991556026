"""A suite from a user's own copy of Dream Fields' captions (google-research, coco_queries_val.py)."""

from __future__ import annotations

import ast
from pathlib import Path

from harness.config import UserError
from harness.records.files import read_text
from harness.sweep.grid import Suite, make_suite

CAPTIONS = 153


def _strings(node: ast.expr) -> list[str] | None:
    """The texts of a literal list, tuple or dict of strings; None for anything else."""
    if isinstance(node, ast.Dict):
        items = node.values
    elif isinstance(node, (ast.List, ast.Tuple)):
        items = node.elts
    else:
        return None
    texts = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    return texts if texts and len(texts) == len(items) else None


def import_dreamfields(path: Path, name: str) -> Suite:
    """The captions of that file as a suite; the file is parsed, never executed.

    They are cleaned as the file itself does: lower case, outer blanks, dots and commas off, a dot at the end.
    Raises UserError unless the file has exactly one list of strings at its top level, of 153 captions.
    """
    try:
        tree = ast.parse(read_text(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no Python file: {error}") from None
    lists = []
    for statement in tree.body:
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        texts = _strings(value) if value is not None else None
        if texts is not None:
            lists.append(texts)
    if len(lists) != 1:
        raise UserError(f"{path}: expected one list of captions at the top level, found {len(lists)}")
    if len(lists[0]) != CAPTIONS:
        raise UserError(f"{path}: expected Dream Fields' {CAPTIONS} captions, found {len(lists[0])}")
    captions = [" ".join(text.lower().split()).strip(" .,") + "." for text in lists[0]]
    return make_suite(name, captions, str(path))
