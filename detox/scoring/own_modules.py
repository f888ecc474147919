"""The modules of a user's own that a file of the user imports, at its top or inside of its functions."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_OURS = ("detox", "config")


def imported(path: Path, name: str, folder: Path) -> dict[str, Path]:
    """Return the modules below `folder` that a file imports, and those that these import, by name: their files.

    Nothing is run: the files are read. What Python would take from elsewhere, the standard library or an installed
    package, is left out, and so is this project. Names that are put together when the code runs are not seen.

    Args:
        path: of a Python file.
        name: the module's, from which relative imports start.
        folder: in which the user's own modules are.
    """
    importlib.invalidate_caches()
    found: dict[str, Path] = {}
    waiting = [(name, path)]
    while waiting:
        importer, file = waiting.pop()
        for candidate in _names(file, importer):
            own = None if candidate in found else _file(candidate, folder)
            if own is not None and own != path:
                found[candidate] = own
                waiting.append((candidate, own))
    return found


def _names(path: Path, name: str) -> Iterator[str]:
    """Yield the names of the modules that a file may import: each with the packages around it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # of one that is not imported, or the import would have failed
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            parts = full.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _file(name: str, folder: Path) -> Path | None:
    """Return the file below `folder` that Python takes for a module, if it is one there."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top) if top and top not in _OURS else None
    except (ImportError, ValueError):  # a module without a spec, such as the script that runs
        spec = None
    if spec is None:
        return None
    places = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or ()]
    candidates = [place / "__init__.py" for place in places]
    if rest:
        candidates += [place.with_name(f"{place.name}.py") for place in places]
    elif spec.origin and spec.origin.endswith(".py"):
        candidates.append(Path(spec.origin))
    file = next((candidate.resolve() for candidate in candidates if candidate.is_file()), None)
    return file if file is not None and file.is_relative_to(folder) and not _is_installed(file) else None


def _is_installed(file: Path) -> bool:
    library = Path(sysconfig.get_path("stdlib")).resolve()
    return file.is_relative_to(library) or bool({"site-packages", "dist-packages"} & set(file.parts))
