"""The wheel is whole: data, templates and licence are inside, and it works without the source tree."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)], cwd=ROOT, check=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_what_it_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    in_tree = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src/fallline").rglob("*") if p.is_file()}
    missing = {n for n in in_tree if "__pycache__" not in n} - set(names)
    assert not missing
    for part in ("licenses/LICENSE", "licenses/NOTICE", "py.typed", ".html", ".xz"):
        assert any(part in n for n in names), part


def test_the_wheel_works_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import fallline;"
        "assert str(pathlib.Path(fallline.__file__)).startswith(sys.argv[1]);"
        "from fallline.cli import main;"
        "sys.exit(main(['run', 'digits-mlp', '--steps', '20']) or main(['tasks']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "final validation error" in result.stdout


def test_generated_pages_are_up_to_date():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    pages = reference.pages()
    assert {"README.md", "reliability.md", "optim.pyi"} <= {path.name for path in pages}
    for path, text in pages.items():
        assert path.exists(), f"{path.name} is missing: run make docs"
        assert path.read_text() == text, f"{path.name} is stale: run make docs"


def test_nothing_committed_names_a_machine():
    """No absolute path of somebody's machine in the tree."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    bad = ("/" + "root/", "/" + "work/", "/" + "home/")
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".html", ".txt", ".yaml", "") and path.is_file():
            text = path.read_text(errors="ignore")
            assert not any(b in text for b in bad), name
