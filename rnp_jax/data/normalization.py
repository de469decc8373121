"""Per-channel normalisations by name. The wrong one for a checkpoint silently ruins its accuracy."""

import difflib
import math
from dataclasses import dataclass

from rnp_jax.errors import DataError


@dataclass(frozen=True)
class Normalization:
    """Maps a pixel p of 0 … 255 to (p / 255 - mean) / std, channel by channel.

    Attributes:
      mean: one value a channel, in units of the full scale.
      std: one positive value a channel, in the same units.

    Raises:
      DataError: if they differ in length, are empty, are not finite, or a std is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not self.mean:
            raise DataError(
                f"normalisation with {len(self.mean)} means and {len(self.std)} stds; give one of each per channel"
            )
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise DataError(f"normalisation with mean {self.mean} and std {self.std}; they must be finite, std above 0")

    def for_channels(self, channels: int) -> "Normalization":
        """The same for images of ``channels`` channels; values equal in all channels fit any number.

        Raises:
          DataError: if the channels differ from each other and are not ``channels`` many.
        """
        if len(self.mean) == channels:
            return self
        if len(set(self.mean)) > 1 or len(set(self.std)) > 1:
            each = "" if channels == 1 else f"{channels} means and {channels} stds, or "
            raise DataError(
                f"normalisation for {len(self.mean)} channels, but the images have {channels}: give --normalization "
                f"{each}one mean and one std"
            )
        return Normalization(self.mean[:1] * channels, self.std[:1] * channels)


NORMALIZATIONS = {
    # Each std as its release has it; the first is the mean of the images' own stds, the second the std of all pixels.
    "cifar10_rnp": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # RNP, and most CIFAR model zoos
    "cifar10_bb": Normalization((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),  # BackdoorBench
    "cifar100": Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cifar100_bb": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),  # BackdoorBench
    "digits": Normalization((0.3048,) * 3, (0.3232,) * 3),  # the built-in digits at 32x32, train part
    "gtsrb": Normalization((0.0,) * 3, (1.0,) * 3),  # BackdoorBench and WaNet: none
    "half": Normalization((0.5,) * 3, (0.5,) * 3),
    "identity": Normalization((0.0,) * 3, (1.0,) * 3),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision
    "mnist": Normalization((0.1307,), (0.3081,)),
    "tiny-imagenet": Normalization((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),  # BackdoorBench
}
"""The normalisations in use, by name."""


def parse_normalization(text: str) -> Normalization:
    """A normalisation by name (``cifar10_rnp``) or by value (``0.5,0.5,0.5/0.2,0.2,0.2``: means, then stds).

    Raises:
      DataError: if the name is unknown or the values make no normalisation.
    """
    text = text.strip()
    if "/" not in text:
        if text in NORMALIZATIONS:
            return NORMALIZATIONS[text]
        longer = [name for name in NORMALIZATIONS if text and name.startswith(text)]
        near = longer or difflib.get_close_matches(text, NORMALIZATIONS, n=1)
        hint = f" did you mean {' or '.join(near)}?" if near else ""
        known = ", ".join(NORMALIZATIONS)
        raise DataError(
            f"unknown normalisation {text!r};{hint} give --normalization one of {known}, or values as 'm,m,m/s,s,s'"
        )
    mean, _, std = text.partition("/")
    try:
        return Normalization(tuple(map(float, mean.split(","))), tuple(map(float, std.split(","))))
    except ValueError as error:
        raise DataError(f"normalisation {text!r} is not of the form 'm,m,m/s,s,s'") from error
