"""Who may import whom: the table of docs/architecture.md, checked on the source."""

import ast
from pathlib import Path

import pytest

import fallline

ROOT = Path(fallline.__file__).parent
LIBRARY = {
    "core", "transforms", "methods", "schedules", "scaling", "nn", "objectives", "curvature", "second_order", "flows", "landscape", "dynamics", "tasks", "optim", "checkpoint",
}  # fmt: skip
# package -> packages of ours that it may import
ALLOWED = {
    "core": set(),
    "checkpoint": {"core"},
    "transforms": {"core"},
    "schedules": {"core", "transforms"},
    "methods": {"core", "transforms", "schedules"},
    "scaling": {"core", "transforms", "schedules", "methods"},
    "nn": {"core", "transforms"},
    "objectives": {"core", "transforms"},
    "curvature": {"core", "transforms"},
    "second_order": {"core", "transforms", "curvature", "objectives"},
    "flows": {"core", "transforms", "curvature"},
    "landscape": {"core", "curvature"},
    "optim": {"core", "methods"},
    "dynamics": {"core", "curvature", "flows", "optim"},
    "testing": {"core", "transforms", "methods", "schedules"},
    "tasks": {"core", "nn"},
    "bench": {"core", "methods", "transforms", "schedules", "optim", "tasks", "curvature", "lab"},
    "lab": LIBRARY,
    "report": {*LIBRARY, "lab"},
    "cli": {*LIBRARY, "lab", "report", "testing", "bench"},
}
STANDALONE = {"core": {"torch"}}


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [p for p in sorted(ROOT.rglob("*.py")) if package_of(p) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path):
    package = package_of(path)
    assert package in ALLOWED, f"{package} has no row in the table"
    for module, name, line in imports(path):
        if module == "fallline":
            module = f"fallline.{name}"
        if not module.startswith("fallline."):
            continue
        other = module.split(".")[1]
        if other in ("fallline", "__version__"):  # the package itself, for its version
            continue
        assert other == package or other in ALLOWED[package], f"{path.name}:{line} imports {module}"
        private = any(part.startswith("_") for part in module.split(".")) or (name.startswith("_") and other != package)
        assert other == package or not private, f"{path.name}:{line} takes a private name of {module}: {name}"


def test_core_needs_only_torch_and_the_standard_library():
    import sys

    for path in sorted((ROOT / "core").rglob("*.py")):
        for module, _, line in imports(path):
            top = module.split(".")[0]
            assert top in {"torch", "fallline", "__future__"} | set(sys.stdlib_module_names), (
                f"{path.name}:{line}: {top}"
            )
