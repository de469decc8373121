import datetime
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import ConfigError
from rnp_jax.sweep import manifest
from rnp_jax.sweep.manifest import Entry, read_entries


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder of checkpoints and what lies beside them; the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.pt", "a.pth", "deep/er/c.safetensors", "deep/d.pth.tar", "deep/E.PT", "x.bin", "y.ckpt"):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("b.card.json", "b.trigger.npz", "notes.txt", "deep/log.jsonl", "deep/images.npz"):
        (tmp_path / "models" / name).touch()
    return tmp_path / "models"


def paths(*inputs: str) -> list[str]:
    return [entry.path for entry in read_entries(inputs)]


def write(path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


def test_a_file_is_named_as_given_and_need_not_be_there(tree):
    assert paths("models/b.pt", "./models/none.pt", str(tree / "a.pth")) == [
        "models/b.pt",
        "./models/none.pt",
        str(tree / "a.pth"),
    ]


def test_a_folder_gives_every_checkpoint_below_it_by_name(tree):
    names = ["a.pth", "b.pt", "deep/E.PT", "deep/d.pth.tar", "deep/er/c.safetensors", "x.bin", "y.ckpt"]
    assert paths("models") == [f"models/{name}" for name in names]
    assert paths("models/") == paths("models")


def test_a_pattern_is_expanded_at_any_depth(tree):
    assert paths("models/**/*.p*") == ["models/a.pth", "models/b.pt", "models/deep/d.pth.tar"]
    assert paths("models/?.pt", "models/[ay].*") == ["models/b.pt", "models/a.pth", "models/y.ckpt"]
    assert paths(f"{tree}/*/er/*") == [f"{tree}/deep/er/c.safetensors"]


def test_a_pattern_takes_neither_cards_nor_triggers_nor_folders(tree):
    assert paths("models/b*") == ["models/b.pt"]
    assert "models/deep" not in paths("models/*")
    assert set(paths("models")) < set(paths("models/**"))


def test_a_file_with_the_signs_of_a_pattern_in_its_name_is_a_file(tree):
    (tree / "m[1].pt").touch()
    assert paths("models/m[1].pt") == ["models/m[1].pt"]


@pytest.mark.parametrize("given", ["none/*.pt", "models/*.onnx", "models/**.pt/x"])
def test_a_pattern_that_matches_nothing_is_refused(tree, given):
    with pytest.raises(ConfigError, match=r"models|none"):
        read_entries([given])


def test_a_folder_without_checkpoints_and_no_input_at_all_are_refused(tree):
    (tree / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty contains no checkpoint.*\.safetensors"):
        read_entries(["models/empty"])
    with pytest.raises(ConfigError, match="no checkpoints"):
        read_entries([])


@pytest.mark.parametrize("path", ["", "a\0b.pt", "\ud800.pt"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ConfigError, match="path"):
        read_entries([path])


def test_a_name_that_is_not_utf8_is_kept(tree):
    odd = os.fsencode(tree) + b"/deep/\xff.pt"
    with open(odd, "wb"):
        assert os.fsdecode(odd) in paths(f"{tree}/deep/*.pt")


def test_a_file_counts_once_however_it_is_named(tree):
    (tree / "link.pt").symlink_to("b.pt")
    assert paths("models/b.pt", "models", "models/*.pt", "models/../models/b.pt").count("models/b.pt") == 1
    assert "models/link.pt" not in paths("models/b.pt", "models")
    assert paths("models/link.pt", "models/b.pt") == ["models/link.pt"]


def test_links_between_folders_are_followed_only_where_they_are_named(tree):
    (tree / "deep" / "loop").symlink_to(tree)
    (tree.parent / "alias").symlink_to(tree)
    assert not any("loop" in path for path in paths("models", "models/**/*.pt"))
    assert "alias/b.pt" in paths("alias")


def test_a_csv_manifest_says_more_about_each(tree):
    manifest = write(
        tree / "list.csv",
        "\ufeffpath,target, image_shape,constants,constants.size,mapping,attack,artefact\n"
        'b.pt,3,"28,28,1","{""value"": 0.5}",4,all_to_all,badnets,b.trigger.npz\n'
        "\n"
        f'{tree}/a.pth,,"[32, 32, 3]",,,,,\n',
    )
    assert read_entries([manifest]) == (
        Entry(
            f"{tree}/b.pt",
            image_shape=(28, 28, 1),
            attack="badnets",
            target=3,
            mapping="all_to_all",
            constants={"value": "0.5", "size": "4"},
            artefact=f"{tree}/b.trigger.npz",
        ),
        Entry(f"{tree}/a.pth", image_shape=(32, 32, 3)),
    )


def test_a_jsonl_manifest_has_values_of_their_own_types(tree):
    rows = [
        {"path": "b.pt", "target": 1, "image_shape": [32, 32, 3], "constants": {"size": 3, "alpha": None}},
        {"path": "none.pt", "key": "net", "prefix": "m.", "architecture": "resnet18", "target": None},
    ]
    manifest = write(tree / "list.jsonl", "\n\n".join(map(json.dumps, rows)))
    first, second = read_entries([manifest])
    assert first.overrides == {"image_shape": [32, 32, 3], "target": 1, "constants": {"size": "3"}}
    assert second == Entry(f"{tree}/none.pt", key="net", prefix="m.", architecture="resnet18")


def test_a_parquet_manifest_may_have_nulls_where_numbers_were(tree):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"path": ["b.pt", "a.pth"], "target": [2.0, float("nan")], "constants.alpha": [None, 0.2]}
    parquet.write_table(pa.table(columns), tree / "list.parquet")
    assert read_entries([str(tree / "list.parquet")]) == (
        Entry(f"{tree}/b.pt", target=2),
        Entry(f"{tree}/a.pth", constants={"alpha": "0.2"}),
    )


def test_data_is_a_folder_beside_the_manifest_or_else_a_name(tree):
    (tree / "images").mkdir()
    manifest = write(tree / "list.csv", "path,data,extractor\nb.pt,images,clip\na.pth,cifar10,/clip\n")
    first, second = read_entries([manifest])
    assert (first.data, first.extractor) == (f"{tree}/images", f"{tree}/clip")
    assert (second.data, second.extractor) == ("cifar10", "/clip")


def test_a_file_counts_twice_where_different_things_are_said_about_it(tree):
    manifest = write(tree / "list.csv", "path,target\nb.pt,0\nb.pt,1\nb.pt,0\nb.pt,\n")
    assert [entry.target for entry in read_entries([manifest, "models/b.pt"])] == [0, 1, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,normalisation\nb.pt,half\n", "line 2: unknown column 'normalisation'; did you mean normalization"),
        ("path,zzz\nb.pt,1\n", "known columns: path, key"),
        ("path,constants.\nb.pt,1\n", "unknown column"),
        ("name\nb.pt\n", "unknown column 'name'"),
        ("target\n1\n", "line 2: no path"),
        ("path,target\na.pth,1\nb.pt,dog\n", r"line 3: target: .*integer.*\(given 'dog'\)"),
        ("path,target\nb.pt,1.5\n", "line 2: target"),
        ("path,target\nb.pt,-1\n", "line 2: target is -1, expected"),
        ("path,image_shape\nb.pt,large\n", "line 2: image_shape"),
        ('path,image_shape\nb.pt,"0,32,3"\n', "line 2: image_shape"),
        ("path,architecture\nb.pt,vgg\n", "line 2: unknown architecture 'vgg'; did you mean vgg"),
        ("path,mapping\nb.pt,one\n", "line 2: mapping"),
        ("path,attack\nb.pt,badnet\n", "line 2: attack 'badnet' is unknown; did you mean badnets"),
        ("path,normalization\nb.pt,cifar11\n", "line 2: unknown normalisation"),
        ("path,constants\nb.pt,size=3\n", "line 2: constants 'size=3': not JSON"),
        ("path,constants\nb.pt,3\n", "line 2: constants 3: expected a mapping"),
        ('path,constants,constants.size\nb.pt,"{""size"": 3}",4\n', "line 2: the constant size is given twice"),
        ("path,target\nb.pt\n", "line 2: 1 cells, expected 2"),
        ("path,target\nb.pt,1,2\n", "line 2: 3 cells, expected 2"),
        ("path,path\nb.pt,b.pt\n", "a column name appears twice in"),
        ('path\n"b.pt\n', "cannot be read"),
        ("path\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_a_bad_csv_manifest_is_refused_with_the_row(tree, text, message):
    with pytest.raises(ConfigError, match=message):
        read_entries([write(tree / "list.csv", text)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "b.pt"}\n{"path": \n', "line 2: not JSON"),
        ('{"path": "b.pt"}\n\n["b.pt"]\n', "line 3: a list, expected an object"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"path": 3}\n', "line 1: path"),
        ('{"path": "b.pt", "tgt": 3}\n', "line 1: unknown column 'tgt'"),
        ('{"path": "b.pt", "image_shape": [32, 32]}\n', "line 1: image_shape"),
        ('{"path": "b.pt", "constants": ["size"]}\n', "line 1: constants"),
        ('{"path": "a\\u0000b"}\n', "line 1: path"),
        ('{"path": "b.pt", "key": "\\ud800"}\n', "line 1: key '.ud800' cannot be the name"),
        ('{"path": "b.pt", "data": "a\\u0000b"}\n', "line 1: data .* none of them NUL"),
        ('{"path": "b.pt", "constants": {"size": {"a": [1]}}}\n', "the constant size is a dict, expected a number"),
        ('{"path": "b.pt", "constants.size": [[1]]}\n', "the constant size is a list, expected a number"),
        (json.dumps({"path": "b.pt", "constants": "[" * 100_000}), "line 1: constants .*: not JSON"),
        ('{"path": "b.pt", "target": ' + "1" * 5000 + "}", "line 1: not JSON"),
        ('{"path": "b.pt", "target": ' + "1" * 4000 + "}", "line 1: target is a number of 13285 bits"),
        ('{"path": "b.pt", "image_shape": [100000, 100000, 3]}', "line 1: image_shape is .* sides up to 4096"),
        (json.dumps({"path": "b" * 5000}), "line 1: path .*b; expected up to 4096 letters"),
    ],
)
def test_a_bad_jsonl_manifest_is_refused_with_the_row(tree, text, message):
    with pytest.raises(ConfigError, match=message):
        read_entries([write(tree / "list.jsonl", text)])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_manifest_that_cannot_be_read_is_refused(tree, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tree / f"list.{suffix}"
    with pytest.raises(ConfigError, match=rf"list\.{suffix} cannot be read"):
        read_entries([str(path)])
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match=rf"list\.{suffix} cannot be read"):
        read_entries([str(path)])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_only_a_regular_file_of_a_bounded_size_is_a_manifest(tree, suffix):
    os.mkfifo(tree / f"list.{suffix}")
    with pytest.raises(ConfigError, match="cannot be read: a FIFO, not a regular file"):
        read_entries([str(tree / f"list.{suffix}")])
    (tree / f"large.{suffix}").touch()
    os.truncate(tree / f"large.{suffix}", 2**40)
    with pytest.raises(ConfigError, match="cannot be read: 1099511627776 bytes"):
        read_entries([str(tree / f"large.{suffix}")])


def test_dates_and_vast_tables_in_parquet_are_refused(tree, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    days = [datetime.date(2024, 1, 31)] * 3000
    monkeypatch.setattr(manifest, "_MOST_ROWS", 2000)
    for column, values, message in (
        ("target", pa.array(days), "row 1: target is a date"),
        ("constants.alpha", pa.array(days), "row 1: constants.alpha is a date"),
        ("target", pa.array([2**60] * 3000, pa.timestamp("ns")), "row 1: target is a|cannot be read"),
        ("key", pa.array([b"x"] * 3000), "row 1: key is a bytes"),
        ("key", pa.array(["x"] * 3000), "more than 2,000 rows"),
    ):
        parquet.write_table(pa.table({"path": ["b.pt"] * 3000, column: values}), tree / "list.parquet")
        with pytest.raises(ConfigError, match=message):
            read_entries([str(tree / "list.parquet")])


VALUES = st.fixed_dictionaries(
    {"path": st.sampled_from(["/a.pt", "/b c.pt", '/"q",.pt', "/é\u202e.pt"])},
    optional={
        "key": st.sampled_from(["state_dict", "a/b", "/"]),
        "image_shape": st.tuples(*[st.integers(1, 400)] * 3),
        "target": st.integers(0, 999),
        "mapping": st.sampled_from(["all_to_one", "all_to_all"]),
        "constants": st.dictionaries(st.sampled_from(["size", "alpha"]), st.sampled_from(["1", "0.5"]), min_size=1),
    },
)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(values=VALUES)
def test_what_an_entry_says_is_enough_to_make_it_again(values, tmp_path_factory):
    entry = Entry(**values)
    path = tmp_path_factory.mktemp("manifest") / "list.jsonl"
    path.write_text(json.dumps({"path": entry.path, **entry.overrides}), "utf-8")
    assert read_entries([str(path)]) == (entry,)
