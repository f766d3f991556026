"""How extensions are found, listed and loaded: methods, kinds of scene, whatever is one folder or one file.

An extension of a seam is a folder `NAME/` with a file that is named after the seam (`method.py`), or a file
`NAME.py` where the seam takes those. Listing reads the docstring without importing; it is imported on use.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import io
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.config import Strict, UserError, first_problem, nearest

T = TypeVar("T")
S = TypeVar("S", bound=Strict)


@dataclass(frozen=True)
class Extension:
    """One of a seam's: its name, and the folder or file that it is."""

    name: str
    path: Path
    source: Path

    @property
    def summary(self) -> str:
        """The first line of its docstring; read when it is asked for, not when one is found."""
        try:
            doc = ast.get_docstring(ast.parse(self.source.read_bytes()))
        except (SyntaxError, ValueError, OSError) as error:
            return f"(cannot be read: {error})"
        return doc.splitlines()[0] if doc else "(no docstring)"

    def code(self) -> str:
        """12 hex digits over its file and what that imports from its folder, as they are now; comments,
        docstrings and blank lines do not count."""
        sources, waiting = {}, [self.source]
        while waiting:
            source = waiting.pop()
            if source not in sources:
                sources[source], tree = _bare(source)
                if tree is not None and self.path != self.source:
                    waiting += _helpers(tree, source, self.path)
        named = sorted(
            (str(source.relative_to(self.source.parent)), text) for source, text in sources.items()
        )
        return hashlib.sha256(repr(named).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Seam:
    """Where something is extended: what an extension is called, and the folder of the built-in ones.

    `package`: whose modules the built-in ones are; without one they are loaded as those of others are.
    `files`: whether a file `NAME.py` is an extension, too.
    """

    noun: str
    built_in: Path
    package: str = ""
    files: bool = False

    @property
    def plural(self) -> str:
        """What several extensions are called."""
        return f"{self.noun[:-1]}ies" if self.noun.endswith("y") else f"{self.noun}s"

    def discover(self, dirs: Sequence[Path] = ()) -> dict[str, Extension]:
        """All extensions of the built-in directory and of `dirs`, by name; nothing is imported.

        Raises UserError for a directory that does not exist or holds none, and for two of one name.
        """
        found: dict[str, Extension] = {}
        for root in dict.fromkeys([self.built_in, *(Path(d).expanduser().resolve() for d in dirs)]):
            places = [(source.parent, source) for source in root.glob(f"*/{self.noun}.py")]
            places += [(source, source) for source in root.glob("*.py") if self.files]
            if not places:
                raise UserError(f"{self.plural} directory {root} {self._why_empty(root)}")
            for path, source in sorted(places):
                name = path.stem if path == source else path.name
                if name.startswith((".", "_")):
                    continue
                if name in found:
                    raise UserError(
                        f"two {self.plural} are named '{name}': {found[name].path} and {path}; rename one"
                    )
                found[name] = Extension(name, path, source)
        return found

    def _why_empty(self, root: Path) -> str:
        """Why nothing is found in a folder, and which one was meant, as far as that can be seen."""
        if not root.is_dir():
            meant = root.parent if self.files and root.name != f"{self.noun}.py" else root.parent.parent
            return f"is a file; name {meant}" if root.is_file() else "does not exist"
        if (root / f"{self.noun}.py").is_file():
            return f"is a {self.noun} itself; name the folder it lies in: {root.parent}"
        deeper = next(iter(sorted(root.glob(f"*/*/{self.noun}.py"))), None)
        files = " or a file NAME.py" if self.files else ""
        return f"holds no {self.noun}, which is a folder with a {self.noun}.py{files}" + (
            f"; name {deeper.parent.parent}" if deeper else ""
        )

    def find(self, name: str, dirs: Sequence[Path] = ()) -> Extension:
        """An extension by its name; raises UserError with the nearest one."""
        known = self.discover(dirs)
        if name not in known:
            raise UserError(f"no {self.noun} '{name}'{nearest(name, known)}")
        return known[name]

    def load(
        self,
        name: str,
        base: type[T],
        dirs: Sequence[Path] = (),
        otherwise: Callable[[ModuleType], type[T] | None] = lambda module: None,
    ) -> type[T]:
        """Import an extension and return its class.

        A folder is a package of its own, and a module beside its file is imported by its bare name, too:
        names of helpers are the folder's own, and sys.path is left alone. `otherwise` makes the class of a
        module that defines none.

        Raises UserError where it cannot be imported or does not define exactly one subclass of `base`.
        """
        found = self.find(name, dirs)
        try:
            if self.package and self.built_in in found.source.parents:
                inner = found.source.relative_to(self.built_in).with_suffix("").parts
                module = importlib.import_module(".".join((self.package, *inner)))
            else:
                module = _execute(f"{_PACKAGE}{self.noun}_{name.replace('.', '_')}", found)
        except UserError:
            raise
        except Exception as error:
            told = f"{found.source} cannot be imported: {type(error).__name__}: {error}"
            raise UserError(f"{self.noun} {name}: {told}") from error
        classes = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        ]
        made = None if classes else otherwise(module)
        if made is not None:
            return made
        if len(classes) != 1:
            raise UserError(
                f"{self.noun} {name}: {found.source} defines {len(classes)} subclasses of {base.__name__}, "
                "it must be exactly one"
            )
        return classes[0]


def resolve(settings: type[S], given: Mapping[str, Any], told: str) -> S:
    """The full settings behind `given`; `told` names the extension. Idempotent on a full dict.

    Raises UserError for an unknown key, naming the nearest, and for a value that does not fit.
    """
    for key in given:
        if key not in settings.model_fields:
            raise UserError(f"{told}: no setting '{key}'{nearest(key, settings.model_fields)}")
    try:
        return settings(**given)
    except ValidationError as error:
        raise UserError(f"{told}, {first_problem(error)}") from None


def _bare(source: Path) -> tuple[str, ast.Module | None]:
    """A file's code without what does not run, and its tree; what is no Python is taken as it stands."""
    try:
        with tokenize.open(source) as file:
            text = file.read()
        tree, lines = ast.parse(text), text.split("\n")
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return source.read_bytes().hex(), None
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            if first and first.end_lineno and lines[first.end_lineno - 1].rstrip().endswith(("'", '"')):
                lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip()), tree


def _helpers(tree: ast.Module, source: Path, root: Path) -> Iterator[Path]:
    """The files in `root` that a module of it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            base, names = root, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level <= len(source.relative_to(root).parts):
            base = source.parents[node.level - 1] if node.level else root
            names = [f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for last in range(1, len(parts) + 1):
                place = base.joinpath(*parts[:last])
                found = (place.parent / f"{place.name}.py", place / "__init__.py")
                yield from (path for path in found if path.is_file())


def _execute(module_name: str, found: Extension) -> Any:
    """The module of an extension outside this package, run anew."""
    is_folder = found.path != found.source
    spec = importlib.util.spec_from_file_location(
        module_name,
        found.source,
        loader=_Loader(module_name, str(found.source)),
        submodule_search_locations=[str(found.path)] if is_folder else None,
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    for helper in [loaded for loaded in list(sys.modules) if loaded.startswith(f"{module_name}.")]:
        del sys.modules[helper]  # of an earlier import, of another folder perhaps
    importlib.invalidate_caches()
    # Registered while it runs: pydantic and dataclasses look their module up by name.
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


_PACKAGE = "harness_"  # then the seam's noun, _ and the name: the package that an extension's folder is


class _Loader(SourceFileLoader):
    """Runs a module of an extension; in a folder `import helper` means the helper beside its file."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        # No bytecode is kept: it would not be that of the module as others import it.
        raise OSError

    def source_to_code(self, data: Any, path: Any, **options: Any) -> Any:  # type: ignore[override]
        top, _, inner = self.name.partition(".")
        if not hasattr(sys.modules[top], "__path__"):  # a lone file, whose neighbours are others'
            return super().source_to_code(data, path, **options)
        levels = len(inner.split(".")) if inner else 1
        root = Path(self.path).parents[levels - 1]
        if inner and Path(self.path).name == "__init__.py":
            levels, root = levels + 1, root.parent
        tree = _Siblings(root, levels).visit(ast.parse(data, path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Siblings(ast.NodeTransformer):
    """Makes imports of modules in `root` relative ones; `levels` is how many packages up that is."""

    def __init__(self, root: Path, levels: int):
        self.root, self.levels = root, levels

    def _is_here(self, module: str | None) -> bool:
        first = (module or "").partition(".")[0]
        found = (self.root / f"{first}.py", self.root / first / "__init__.py")
        return bool(first) and any(path.is_file() for path in found)

    def _relative(self, node: ast.stmt, module: str, name: str, bound: str | None) -> ast.stmt:
        names = [ast.alias(name, bound)]
        return ast.copy_location(ast.ImportFrom(module or None, names, self.levels), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if node.level == 0 and self._is_here(node.module):
            node.level = self.levels
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for alias in node.names:
            parent, _, last = alias.name.rpartition(".")
            first = alias.name.partition(".")[0]
            if not self._is_here(alias.name):
                found.append(ast.copy_location(ast.Import([alias]), node))
            elif alias.asname or not parent:
                found.append(self._relative(node, parent, last, alias.asname))
            else:  # import a.b binds a
                found.append(self._relative(node, parent, last, "_"))
                found.append(self._relative(node, "", first, None))
        return found


class _Finder(MetaPathFinder):
    """Finds the modules of extensions' folders for `_Loader`; everything else is left to the others."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if not fullname.startswith(_PACKAGE):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())
