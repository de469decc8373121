"""What a data set holds, as a digest: other images or labels under the same name are other data."""

import hashlib
import os
from pathlib import Path

from rnp_jax.data.loading import BUILT_IN, find_files
from rnp_jax.errors import UnusableDataError
from rnp_jax.regular_file import digest_regular


def digest_data(name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> str:
    """SHA-256 of all files of a data set, whatever folder it is in; the name itself where it is built in.

    Args:
      name_or_path: as ``load`` takes it.
      data_dir: as ``load`` takes it.

    Raises:
      UnusableDataError: there is no such data, or a file of it cannot be read.
    """
    if name_or_path in BUILT_IN:
        return str(name_or_path)
    return digest_files(find_files(name_or_path, data_dir))


def digest_files(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names; hidden ones and special files are left out.

    Raises:
      UnusableDataError: one cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in _list_files(path) if path.is_dir() else [path]:
            name = file.relative_to(path).as_posix()
            digest.update(f"{digest_regular(file)} {name}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UnusableDataError(f"{error.filename or path} cannot be read: {error.strerror}; put it there") from error
    return digest.hexdigest()


def _list_files(root: Path) -> list[Path]:
    """The files below a folder, links to folders followed once."""
    found, seen = [], set()
    for folder, directories, names in os.walk(root, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in seen:
            directories.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        directories[:] = [name for name in directories if not name.startswith(".")]
        found += [path for name in names if not name.startswith(".") and (path := Path(folder, name)).is_file()]
    return sorted(found)
