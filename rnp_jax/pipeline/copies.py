"""What is said of the copies of a network that its file holds."""

from collections.abc import Iterable

from rnp_jax.checkpoints import Model
from rnp_jax.pipeline.case import Case
from rnp_jax.report.schema import CopyInfo, Written
from rnp_jax.torch_io import Copies, Copy, StateDict
from rnp_jax.torch_io.nodes import METADATA_STEP, Location
from rnp_jax.torch_io.text import quote

_MOST_SENTENCES = 10


def describe_copies(model: Model, written: Written) -> tuple[CopyInfo, ...]:
    """The copies, and what looks like one.

    Args:
      model: the network that was chosen.
      written: what becomes of the copies in the file that is written. Weights in other places are dropped where copies
        are replaced; what only looks like a copy is kept.
    """
    unlike: Written = "dropped" if written == "dropped" else "kept"
    fitting = ((copy.state_dict, "equal" if copy.equal else "different", written) for copy in model.copies.fitting)
    others = ((state_dict, "unlike", unlike) for state_dict in model.copies.others)
    named = (
        CopyInfo(key=_spell_key(found.location), prefix=found.prefix, weights=weights, written=fate)  # pyright: ignore[reportArgumentType]
        for found, weights, fate in (*fitting, *others)
    )
    left_out: Written = "kept" if written == "kept" else "dropped"
    remains = (
        CopyInfo(key=_spell_key(each.location), prefix="", weights="scattered", written=left_out)
        for each in model.copies.remains
    )
    return (*named, *remains)


def tell_copies(copies: Copies, chosen: StateDict, *, replaced: bool) -> tuple[str, ...]:
    """A sentence for each copy and for what looks like one, as far as they are few.

    Args:
      copies: what the file holds beside the chosen state dict.
      chosen: the state dict that is judged.
      replaced: whether a cleaned network takes the place of all copies.
    """
    equal = [copy.state_dict for copy in copies.fitting if copy.equal]
    fate = "; the cleaned network replaces it too" if replaced else ""
    return (
        *_shorten(f"The file holds the same weights once more, in {_name(each)}{fate}." for each in equal),
        *warn_of_copies(copies, chosen, replaced=replaced),
    )


def warn_of_copies(copies: Copies, chosen: StateDict, *, replaced: bool) -> tuple[str, ...]:
    """As ``tell_copies``, without copies that are equal: what a user may not expect."""
    fate = "the cleaned network replaces both" if replaced else "the other is not"
    left_out = "; the written file leaves them out" if replaced else ""
    return (
        *_shorten(
            f"The file holds the same network with other weights in {_name(each.state_dict)}: {_name(chosen)} is "
            f"judged, and {fate}.{_advise(each)}"
            for each in copies.fitting
            if not each.equal
        ),
        *_shorten(
            f"In the file, {_name(each)} has most of the network's names but does not fit it: it is left as it is."
            for each in copies.others
        ),
        *_shorten(
            f"In the file, {_name_place(each.location)} holds weights of the network that is judged, in "
            f"{len(each.tensors)} tensors that are no state dict of it{left_out}."
            for each in copies.remains
        ),
    )


def warn_of_replaced(case: Case) -> tuple[str, ...]:
    """As ``warn_of_copies``, where a cleaned network takes the place of all copies; nothing where it is a new one."""
    return () if case.anew else warn_of_copies(case.model.copies, case.model.state_dict, replaced=True)


def _shorten(sentences: Iterable[str]) -> tuple[str, ...]:
    found = tuple(sentences)
    more = len(found) - _MOST_SENTENCES
    return (*found[:_MOST_SENTENCES], *([f"More such places in the file: {more}."] if more > 0 else []))


def _spell_key(location: Location) -> str:
    return "/".join(map(str, location)) or "/"


def _name(state_dict: StateDict) -> str:
    where = _name_place(state_dict.location)
    return f"{where} behind the prefix {quote(state_dict.prefix)}" if state_dict.prefix else where


def _name_place(location: Location) -> str:
    return quote(_spell_key(location)) if location else "the root of the file"


def _advise(copy: Copy) -> str:
    if not copy.whole or METADATA_STEP in copy.state_dict.location:  # which --key does not reach
        return ""
    prefix = f" --prefix {quote(copy.state_dict.prefix)}" if copy.state_dict.prefix else ""
    return f" To judge the other, give --key {quote(_spell_key(copy.state_dict.location))}{prefix}."
