import io
import re

import pytest
from rich.console import Console

from rnp_jax.attacks import ATTACKS, BadNets, Sig, WaNet
from rnp_jax.cli import main
from rnp_jax.commands.attack_list import attack_table, describe_constants, describe_kind
from rnp_jax.training.trainers import JOINT


def shown(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(attack_table())
    return console.file.getvalue()


def test_every_attack_has_a_row_with_its_paper_and_constants():
    rows = re.split(r"\n[├└].*\n", shown(200))
    assert len(rows) == len(ATTACKS) + 1  # after the last there is nothing
    for (name, kind), row in zip(sorted(ATTACKS.items()), rows, strict=False):
        assert re.search(rf"│ {name} +│", row)
        assert kind.paper in row
        for constant, value in describe_constants(kind()).items():
            assert f"{constant} {value}" in row


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
