"""What the tests of commands share."""

from __future__ import annotations

import re

import pytest

from medseg.cli import main


@pytest.fixture
def medseg(capsys):
    """Run a command; return (exit status, what it printed, one line a line)."""

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(caught.value.code or 0), re.sub(r"\s+", " ", out + err)

    return run
