"""Rows of manifests as their files give them; what they say of checkpoints is tested in test_manifest.py."""

from pathlib import Path

import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.sweep.manifest_rows import READERS


def rows(path: Path, content: str | bytes | None = None) -> list[tuple[str, dict]]:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(READERS[path.suffix](path))


def test_csv_rows_are_texts_and_know_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    assert rows(path, '\ufeffpath, target \n\nb.pt,1\n"c,\nd.pt",\n') == [
        (f"{path}, line 3", {"path": "b.pt", "target": "1"}),
        (f"{path}, line 5", {"path": "c,\nd.pt", "target": ""}),
    ]
    assert rows(path, "") == []


def test_jsonl_rows_have_values_of_their_own_types(tmp_path):
    path = tmp_path / "a.jsonl"
    assert rows(path, '{"path": "b.pt", "target": 1}\n \n{}\n') == [
        (f"{path}, line 1", {"path": "b.pt", "target": 1}),
        (f"{path}, line 3", {}),
    ]


def test_parquet_rows_are_counted_over_its_batches(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"target": [*range(599), None]}), path)
    found = rows(path)
    assert found[0] == (f"{path}, row 1", {"target": 0})
    assert found[-1] == (f"{path}, row 600", {"target": None})
    assert [cells["target"] for _, cells in found] == [*range(599), None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path,path\nb.pt,c.pt\n", "a column name appears twice in path, path"),
        ("a.csv", "path,target\nb.pt\n", r"line 2: 1 cells, expected 2 \(path, target\)"),
        ("a.csv", 'path\n"b.pt\n', "cannot be read: unexpected end of data"),
        ("a.csv", b"path\n\xff\n", "cannot be read: 'utf-8' codec"),
        ("a.jsonl", "{}\n[]\n", "line 2: a list, expected an object of columns and values"),
        ("a.jsonl", "{\n", "line 1: not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", '{"target": ' + "1" * 5000 + "}", "line 1: not JSON"),
        ("a.parquet", b"PAR1", r"a\.parquet cannot be read"),
        ("a.csv", None, "cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, name, content, message):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match=message):
        rows(tmp_path / name, content)
