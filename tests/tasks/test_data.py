"""Finding data: the order of search, hashes, damaged files, and a stand-in that cannot be overlooked."""

import dataclasses
import gzip
import lzma
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from fallline.core.errors import FalllineError
from fallline.tasks import Corpus, DifferentDataWarning, SyntheticDataWarning, data, load
from fallline.tasks.corpora import BREAST_CANCER, DIGITS, FASHION_MNIST, FLIGHTS, SHAKESPEARE
from fallline.tasks.files import read_bytes, read_idx, read_table

CORPORA = [DIGITS, BREAST_CANCER, FLIGHTS, FASHION_MNIST, SHAKESPEARE]
NOTICE = Path(__file__).parents[2] / "NOTICE"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("FALLLINE_DATA", raising=False)
    data._load.cache_clear()
    yield
    data._load.cache_clear()


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An installation without vendored data."""
    monkeypatch.setattr(data, "VENDORED", tmp_path / "none")
    return dataclasses.replace(FASHION_MNIST, system=())


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda c: c.key)
def test_the_vendored_arrays_have_the_published_hash(corpus):
    vendored = dataclasses.replace(corpus, system=())
    arrays, source = vendored.load()
    assert source.sha256 == corpus.sha256 == data.digest(arrays)
    assert not source.synthetic
    assert "the copy that comes with fallline" in source.origin


def test_the_system_copy_gives_the_same_arrays():
    folder = FASHION_MNIST.system[0]
    if not folder.is_dir():
        pytest.skip(f"{folder} is not installed (Debian: dataset-fashion-mnist)")
    system, source = FASHION_MNIST.load()
    vendored, _ = dataclasses.replace(FASHION_MNIST, system=()).load()
    assert "the system's" in source.origin
    assert all(np.array_equal(a, b) for a, b in zip(system, vendored, strict=True))


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda c: c.key)
def test_the_stand_in_has_the_same_shapes_and_types_and_is_always_the_same(corpus):
    real, twin, again = corpus.load()[0], corpus.twin(), corpus.twin()
    assert [(a.shape, a.dtype) for a in twin] == [(a.shape, a.dtype) for a in real]
    assert data.digest(twin) == data.digest(again) != corpus.sha256


def test_without_data_the_stand_in_is_loud(empty):
    with pytest.warns(
        SyntheticDataWarning, match=r"SYNTHETIC DATA: no copy of Fashion-MNIST.*say nothing.*FALLLINE_DATA"
    ):
        _, source = empty.load()
    assert source.synthetic
    assert source.name == "SYNTHETIC stand-in for Fashion-MNIST"


def test_all_tasks_train_on_the_stand_in(tmp_path, monkeypatch):
    from fallline.tasks import TASKS

    monkeypatch.setattr(data, "VENDORED", tmp_path)
    found = [entry for entry in TASKS.values() if isinstance(entry.corpus, Corpus)]
    assert len(found) == 13  # the others are generated
    for entry in found:
        entry = dataclasses.replace(entry, corpus=dataclasses.replace(entry.corpus, system=()))
        with pytest.warns(SyntheticDataWarning):
            task = entry.load()
        if entry.corpus.key != "shakespeare":  # seconds on their own; batches are checked with the real text
            task.check()


def test_the_order_of_search(tmp_path, monkeypatch):
    for name in ("user", "variable"):
        shutil.copytree(data.VENDORED / "digits", tmp_path / name / "digits")
    monkeypatch.setenv("FALLLINE_DATA", str(tmp_path / "variable"))
    assert str(tmp_path / "user") in DIGITS.load(tmp_path / "user")[1].origin
    assert f"FALLLINE_DATA={tmp_path / 'variable'}" in DIGITS.load()[1].origin
    assert "comes with fallline" in SHAKESPEARE.load()[1].origin  # the variable's folder need not have everything
    assert str(tmp_path) in load("digits-mlp", tmp_path / "user").sources[0].origin


def test_a_variable_that_names_no_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FALLLINE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FalllineError, match=r"FALLLINE_DATA is '.*nowhere', which is not a folder.*unset it"):
        DIGITS.load()


def test_data_are_read_once_in_a_process(monkeypatch):
    assert DIGITS.load()[0][0] is DIGITS.load()[0][0]


def test_files_may_be_plain_or_compressed_and_lie_flat(tmp_path):
    for source in (data.VENDORED / "digits").iterdir():
        content = lzma.decompress(source.read_bytes())
        if "labels" in source.name:
            (tmp_path / source.stem).write_bytes(content)
        else:
            (tmp_path / f"{source.stem}.gz").write_bytes(gzip.compress(content))
    assert DIGITS.load(tmp_path)[1].sha256 == DIGITS.sha256


def test_own_data_of_the_same_kind_are_used_with_a_warning(tmp_path):
    (tmp_path / "plays.txt").write_bytes(b"To be, or not to be. " * 5_000 + "é".encode())
    with pytest.warns(DifferentDataWarning, match=r"not the published 8cfe.*not compare.*your own"):
        arrays, source = SHAKESPEARE.load(tmp_path)
    assert source.sha256 == data.digest(arrays) != SHAKESPEARE.sha256
    assert not source.synthetic


def test_a_given_folder_without_the_files_is_an_error(tmp_path):
    with pytest.raises(FalllineError, match=r"has no data of handwritten digits.*digits-images\.idx.*Correct the path"):
        DIGITS.load(tmp_path)


def test_half_of_the_files_is_an_error(tmp_path):
    shutil.copy(data.VENDORED / "digits" / "digits-labels.idx.xz", tmp_path)
    with pytest.raises(FalllineError, match=r"lacks digits-images\.idx of.*are needed.*Add what is missing"):
        DIGITS.load(tmp_path)


def test_a_changed_vendored_file_is_an_error(tmp_path, monkeypatch):
    shutil.copytree(data.VENDORED / "shakespeare", tmp_path / "shakespeare")
    (tmp_path / "shakespeare" / "plays.txt.xz").write_bytes(lzma.compress(b"To be"))
    monkeypatch.setattr(data, "VENDORED", tmp_path)
    with pytest.raises(FalllineError, match=r"not the published.*The files are damaged\. Reinstall"):
        SHAKESPEARE.load()


IDX = b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(range(6))


def test_idx_is_read_as_the_format_says(tmp_path):
    (tmp_path / "a").write_bytes(IDX)
    assert read_idx(tmp_path / "a").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_idx(tmp_path / "a", rows=1).tolist() == [[0, 1, 2]]
    with pytest.raises(FalllineError, match=r"has 2 rows\. 3 are needed\. Give the complete file"):
        read_idx(tmp_path / "a", rows=3)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.gz", b"not gzip", r"cannot be decompressed.*Get it again"),
        ("a.gz", gzip.compress(IDX)[:-14], r"cannot be decompressed"),
        ("a.xz", lzma.compress(IDX)[:-50], r"cannot be decompressed"),
        ("a", IDX[:-1], r"is damaged: it has 5 of 6 values"),
        ("a", b"GIF89a" + IDX, r"not with the mark of an IDX file"),
        ("a", IDX[:6], r"not with the mark of an IDX file"),
        ("a", b"", r"not with the mark of an IDX file"),
    ],
    ids=(
        "not gzip",
        "short gzip",
        "short xz",
        "short",
        "foreign",
        "only a head",
        "empty",
    ),  # gzip's bytes hold the time
)
def test_damaged_files_are_said_to_be_damaged(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FalllineError, match=text):
        read_idx(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"a,b\n1,x\n", r"is not a table of numbers"), (b"a,b\n1,2\n3,4\n", r"it has 2 columns instead of 3")],
)
def test_damaged_tables_are_said_to_be_damaged(tmp_path, content, text):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FalllineError, match=text):
        read_table(tmp_path / "t.csv", columns=3)


def test_a_file_without_permission_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    (tmp_path / "a").write_bytes(b"")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FalllineError, match=r"cannot be read: no permission.*must be readable.*Change its mode"):
        read_bytes(tmp_path / "a")


def test_the_vendored_files_are_small():
    sizes = [p.stat().st_size for p in data.VENDORED.rglob("*") if p.is_file()]
    assert sum(sizes) < 3.5e6


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda c: c.key)
def test_every_licence_is_in_the_notice(corpus):
    if not NOTICE.is_file():
        pytest.skip("NOTICE stands beside the tests only in the source tree")
    _, _, section = NOTICE.read_text().partition(f"\n{corpus.name}\n---")
    assert f"Files:    {corpus.key}/" in section
    assert corpus.licence in section.partition("Source:")[0]


def test_nothing_is_warned_about_by_default():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for corpus in CORPORA:
            corpus.load()
