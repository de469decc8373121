from dataclasses import replace

from rnp_jax.sweep.items import Item
from rnp_jax.sweep.manifest import Entry
from rnp_jax.sweep.parsing import Parsed
from rnp_jax.sweep.plan import group_of, order_items

RESNET = {"name": "resnet18", "num_classes": 10, "width": 16, "layers": [], "image_shape": [32, 32, 3]}
PARSED = Parsed("0" * 64, "zip", "state_dict", RESNET, 701466, 2844672, (), "0.5/0.2", None, "cifar10")


def test_files_of_one_kind_share_a_group_whatever_their_names_and_bytes():
    other = replace(PARSED, sha256="1" * 64, container="legacy", key="/", bytes=1, anomalies=("odd",))
    assert group_of(PARSED, Entry("a.pt")) == group_of(other, Entry("b.pt", attack="badnets", target=3))


def test_whatever_programs_are_compiled_for_parts_groups():
    wide = replace(PARSED, architecture={**RESNET, "width": 64})
    small = replace(PARSED, architecture={**RESNET, "image_shape": [28, 28, 3]})
    groups = [
        *(group_of(parsed, Entry("a.pt")) for parsed in (PARSED, wide, small)),
        group_of(PARSED, Entry("a.pt", normalization="half")),
        group_of(PARSED, Entry("a.pt", extractor="clip")),
        group_of(PARSED, Entry("a.pt", data="digits")),
    ]
    assert len(set(groups)) == len(groups)


def test_what_an_entry_says_goes_over_the_card():
    same = replace(PARSED, normalization="0.1/0.1", data="gtsrb")
    entry = Entry("a.pt", normalization="half", data="digits")
    assert group_of(PARSED, entry) == group_of(same, entry)
    assert group_of(PARSED, Entry("a.pt")) != group_of(same, Entry("a.pt"))


def test_items_come_group_by_group_in_the_order_of_first_appearance():
    items = [Item(str(i), f"{i}.pt", "0" * 64, "rnp", group) for i, group in enumerate("babcab")]
    assert [item.key for item in order_items(items)] == ["0", "2", "5", "1", "4", "3"]
    assert order_items([]) == ()
