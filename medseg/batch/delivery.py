"""Where files are delivered: one name for each place, and shares that may go away while a batch runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medseg.errors import StorageError
from medseg.files import prove_writable

_REMEDY = "mount the share, and run the command again: what is done stays done"


class Deliveries:
    """Folders outside of the output folder that studies are delivered to.

    Args:
        roots: They are there, as `medseg.recipe.deliver.FolderDelivery.root` says.
    """

    def __init__(self, roots: Iterable[Path] = ()) -> None:
        self._was_mount = {root: os.path.ismount(root) for root in roots}

    def require(self) -> None:
        """Prove that a file can be written in each folder; none is made: a missing one is a share that went away.

        Raises:
            StorageError: One is gone, is no longer a mounted share, or cannot be written to.
        """
        for root, was_mount in self._was_mount.items():
            if not os.path.lexists(root) or (was_mount and not os.path.ismount(root)):
                expected, found = "the folder that studies are delivered to", "none"
                raise StorageError(root, expected=expected, found=found, remedy=_REMEDY)
            prove_writable(root)


def place_of(folder: Path, path: str) -> str:
    """Return the one name of a file's place: relative where it lies below the output folder, else absolute.

    Args:
        folder: The output folder.
        path: Relative to it, or absolute; links among its folders are followed, the file itself need not be there.
    """
    whole = folder / path
    real, root = Path(os.path.realpath(whole.parent), whole.name), Path(os.path.realpath(folder))
    return str(real.relative_to(root) if real.is_relative_to(root) else real)
