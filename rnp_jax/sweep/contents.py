"""What a sweep's items are judged on, told by its content: a name or a path may come to stand for other data."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from rnp_jax.card import CARD_SUFFIX, beside
from rnp_jax.data import digest_data, digest_files
from rnp_jax.errors import UnusableDataError
from rnp_jax.pipeline.request import Request
from rnp_jax.regular_file import MIB, digest_regular

_MOST_BYTES = 8192 * MIB


class Contents:
    """Digests of data sets and extractors, each taken once."""

    def __init__(self):
        self._known: dict[tuple[str, str | None], str | UnusableDataError] = {}

    def digest(self, request: Request, carded: str | None) -> str:
        """SHA-256 of the content of everything large that a request names beside its checkpoint.

        Args:
          request: what is asked of a checkpoint.
          carded: the data that its card names.

        Raises:
          UnusableDataError: some of it is not there, or cannot be read.
        """
        options = request.options
        folder = options.images.data_dir
        untrusted = options.untrusted.data if request.method.needs == "untrusted" else None
        data = [
            None if name is None else self._know(name, folder, lambda name=name: digest_data(name, folder))
            for name in (options.images.data or carded, untrusted)
        ]
        extractor = options.source.extractor
        if extractor is not None:
            data.append(self._know("extractor", extractor, lambda: _digest_extractor(Path(extractor))))
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()

    def _know(self, kind: str, place: str | None, take: Callable[[], str]) -> str:
        if (kind, place) not in self._known:
            try:
                self._known[kind, place] = take()
            except UnusableDataError as error:
                self._known[kind, place] = error
        found = self._known[kind, place]
        if isinstance(found, UnusableDataError):
            raise found
        return found


def digest_small(path: Path) -> str | None:
    """SHA-256 of a file that lies beside a checkpoint, such as its trigger; None where there is none.

    Of a file that cannot be read, why: whoever opens it for the item says so, and the others go on.
    """
    if not path.is_file():
        return None
    try:
        return digest_regular(path, _MOST_BYTES)
    except OSError as error:
        return str(error)


def _digest_extractor(path: Path) -> str:
    if not path.exists():
        raise UnusableDataError(f"--extractor {path}: nothing is there; give a checkpoint or a folder")
    read = [path] if path.is_dir() else [path, beside(path, CARD_SUFFIX)]
    return " ".join(digest_files(each) for each in read if each.exists())
