import re

import pytest

from rnp_jax.attacks import ATTACKS, BadNets, Sig, WaNet
from rnp_jax.cli import main
from rnp_jax.commands.attack_list import describe_constants, describe_kind, list_attacks, name_static
from rnp_jax.training.trainers import JOINT


@pytest.fixture
def shown(capsys, monkeypatch):
    def show(width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        list_attacks()
        return capsys.readouterr().out

    return show


def test_every_attack_is_told_with_its_paper_its_constants_and_what_differs(shown):
    blocks = re.split(r"\n(?=\S)", shown(1000).rstrip())
    assert len(blocks) == len(ATTACKS)
    for (name, kind), block in zip(sorted(ATTACKS.items()), blocks, strict=True):
        assert block.startswith(f"{name}  {kind.paper}: ")
        assert kind.deviation in block
        for constant, value in describe_constants(kind()).items():
            assert re.search(rf"[:,] {constant} {re.escape(value)}(,|$)", block, re.MULTILINE)


def test_whose_labels_are_changed_and_where_a_trigger_comes_from():
    assert describe_kind(BadNets) == ("dirty label", "static")
    assert describe_kind(Sig) == ("clean label", "static")
    assert describe_kind(WaNet) == ("dirty label", "in the step")

    class Learned(Sig):
        def fit(self, params, means):
            del means
            return params

        def craft(self, params, images, means):
            del params, means
            return images

    assert describe_kind(Learned) == ("clean label", "learned", "crafted")
    assert all("joint" in describe_kind(kind) for kind in JOINT)


def test_constants_are_as_one_would_give_them():
    assert describe_constants(BadNets(size=6)) == {"variant": "grid", "size": "6", "margin": "None"}


@pytest.mark.parametrize("arguments", [["--list"], ["badnets", "--list"], ["--list", "--data", "digits"]])
def test_the_command_lists_whatever_else_is_given(arguments, capsys):
    assert main(["attack", *arguments]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ATTACKS)


def test_help_tells_of_the_list(capsys):
    assert main(["attack", "--help"]) == 0
    assert "rnp-jax attack --list" in " ".join(capsys.readouterr().out.split())


def test_other_commands_have_no_list(capsys):
    with pytest.raises(SystemExit) as status:
        main(["evaluate", "a.pt", "--list"])
    assert status.value.code == 2
    assert "--list" in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 80])
def test_names_are_whole_however_narrow_the_terminal(width, shown):
    words = set(re.findall(r"\w+", shown(width)))
    constants = {name for kind in ATTACKS.values() for name in describe_constants(kind())}
    assert set(ATTACKS) | constants <= words


def test_the_attacks_that_poison_a_set_once_come_from_the_registry():
    named = name_static()
    assert named.startswith("a_blend, adap_patch, badnets, ")
    assert {"stamp", "wanet"} <= set(re.findall(r"\w+", named))
    assert not {"narcissus", "input_aware"} & set(re.findall(r"\w+", named))


@pytest.mark.parametrize("command", ["study", "simclr"])
def test_commands_that_poison_a_set_once_list_their_attacks(command, capsys):
    assert main([command, "--help"]) == 0
    assert name_static() in " ".join(capsys.readouterr().out.split())
