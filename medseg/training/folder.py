"""The run folder: a new one, or that of the run to resume, which has the same configuration and the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from medseg.config import ExperimentConfig
from medseg.data.digest import digest_facts
from medseg.data.manifest import Case
from medseg.errors import UsageError
from medseg.files import make_folder, sha256_of
from medseg.regions import LabelScheme
from medseg.training.checkpoint import CHECKPOINT_FILE, TrainState, read_state
from medseg.yamlfile import dump_yaml

CONFIG_FILE = "config.yaml"
_PLACES = {"data": {"manifest", "root", "store", "coarse"}, "init_from": {"model"}, "training": {"track"}}


def open_folder(folder: Path, config: ExperimentConfig, *, resume: bool, follows: bool = False) -> TrainState:
    """Make the folder of a new run, or find the run to resume in it.

    Args:
        folder: Of the run.
        config: Its configuration.
        resume: The run is an earlier one.
        follows: Another process of the same training has made the folder.

    Returns:
        Where the run stands.

    Raises:
        UsageError: The folder holds an earlier run, none to resume, or one of another configuration.
        ModelError: The checkpoint to resume from is damaged.
        StorageError: The folder cannot be written to.
    """
    file, digest = folder / CHECKPOINT_FILE, config_digest(config)
    there = file.is_file()
    if there and not resume:
        raise earlier_run(folder)
    if resume and not there:
        raise UsageError(
            folder, expected="a run to resume", found=f"no {CHECKPOINT_FILE}", remedy="leave out --resume"
        )
    if resume:
        state = read_state(file)
        remedy = f"use {folder / CONFIG_FILE}, or start a new run in another folder"
        _require_same(folder, "configuration", state.config_sha256 == digest, remedy)
        return state
    if follows:
        return TrainState(config_sha256=digest)
    make_folder(folder)
    dump_yaml(folder / CONFIG_FILE, config.model_dump(mode="json"))
    return TrainState(config_sha256=digest)


def earlier_run(folder: Path) -> UsageError:
    """Return the error that a new run is to begin in a folder that holds one."""
    return UsageError(
        folder,
        expected="a new run folder",
        found="an earlier run",
        remedy="pass --resume to go on with it, or choose another folder with -o",
    )


def check_data(folder: Path, state: TrainState, digests: tuple[str, ...], *, resume: bool) -> None:
    """Remember what a new run learns from and is validated on; refuse to resume on anything else.

    Args:
        folder: Of the run.
        state: Of the run.
        digests: `data_digest` of the training and of the validation cases, these with all maps of a first stage.
        resume: The run is an earlier one.

    Raises:
        UsageError: The cases, their files or the labels are not those of the run.
    """
    if resume:
        _require_same(folder, "data", state.data_sha256 == digests, "start a new run in another folder")
    state.data_sha256 = (digests[0], digests[1])


def config_digest(config: BaseModel) -> str:
    """Return the SHA-256 of a configuration's content, whatever its file looks like and wherever its files lie.

    The data have a digest of their own, `data_digest`.
    """
    return _digest(digest_facts(config, exclude=_PLACES))


def data_digest(cases: Sequence[Case], scheme: LabelScheme, *, coarse: Sequence[Case] = ()) -> str:
    """Return the SHA-256 of the cases' ids, the checksums of their files, the label values and the regions.

    Checksums that the manifest does not give are computed.

    Args:
        cases: The cases.
        scheme: Labels and regions.
        coarse: Cases whose label maps of the first stage count, too.
    """
    facts = [[case.id, _checksums(case)] for case in cases]
    more: dict[str, object] = {"members": scheme.members, "ignore_value": scheme.ignore_value}
    more["coarse"] = [_checksum(case.coarse) for case in coarse if case.coarse]
    return _digest({"labels": scheme.labels.indices, "cases": facts} | {k: v for k, v in more.items() if v})


def _checksums(case: Case) -> list[str]:
    images = case.image_sha256 or [_checksum(path) if path else None for path in case.images]
    label = case.label_sha256 or (_checksum(case.label) if case.label else "")
    return [*(checksum or "" for checksum in images), label]


def _checksum(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError:  # measuring the case says what is wrong with the file
        return ""


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _require_same(folder: Path, what: str, same: bool, remedy: str) -> None:
    if not same:
        raise UsageError(
            folder, expected=f"the {what} that the run was started with", found="another one", remedy=remedy
        )
