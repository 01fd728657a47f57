"""Optional libraries: imported when a feature needs them, with the command that installs them where they lack."""

from __future__ import annotations

import importlib
from types import ModuleType

from medseg.errors import UsageError


def import_extra(module: str, *, feature: str, extra: str) -> ModuleType:
    """Import a module of an optional library.

    Args:
        module: Full name of the module.
        feature: What needs it, as the user knows it, such as ``--track mlflow``.
        extra: Name of the extra of medseg that installs it.

    Raises:
        UsageError: The library is not installed; names the feature, the extra and the command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            feature,
            expected=f"the libraries of the extra [{extra}]",
            found=f"no module '{error.name}'",
            remedy=f"run: pip install 'medseg[{extra}]'",
        ) from error
