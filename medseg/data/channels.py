"""Channels that some cases lack: which are there, and dropping them. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.data.manifest import Case
from medseg.errors import InputError, ManifestError, UsageError, listed
from medseg.volume import Volume


def present_volumes(images: Sequence[Volume | None]) -> list[Volume]:
    """Return the images of the channels that are not missing.

    Raises:
        InputError: All are.
    """
    given = [image for image in images if image is not None]
    if not given:
        raise InputError(
            "images", expected="at least one channel", found="none", remedy="give the images of the case"
        )
    return given


def require_channels(training: Sequence[Case], every: Sequence[Case], *, flags: bool) -> None:
    """Check that cases lack no channel, or that the network is told which.

    Args:
        training: Cases to learn from.
        every: All cases.
        flags: `Preprocessing.channel_flags`.

    Raises:
        UsageError: A case lacks a channel and the network is not told.
        ManifestError: No training case has one of them.
    """
    lacking = [case.id for case in every if not all(case.present)]
    if lacking and not flags:
        raise UsageError(
            "preprocessing.channel_flags",
            expected="true, where cases lack channels",
            found=f"false; {len(lacking)} of {len(every)} cases lack one: {listed(lacking)}",
            remedy="set it, and training.channel_dropout: 0.2, or leave these cases out",
        )
    require_every_channel([case.present for case in training])


def require_every_channel(present: Sequence[Sequence[bool]]) -> None:
    """Check that each channel is in one of the training cases.

    Args:
        present: Which channels each case has.

    Raises:
        ManifestError: None of them has one of the channels.
    """
    for channel, of_cases in enumerate(zip(*present, strict=True)):
        if not any(of_cases):
            raise ManifestError(
                "channels",
                expected="each of them in at least one training case",
                found=f"none of {len(present)} has channel {channel}",
                remedy="choose another fold, or leave the channel out of the manifest",
            )


def drop_channels(present: Sequence[bool], share: float, rng: np.random.Generator) -> tuple[bool, ...]:
    """Drop each channel that is present with a probability, but never the last one.

    Args:
        present: Which channels there are; at least one.
        share: Probability of each to be dropped.
        rng: Draws one number a channel, and which one stays where all would go.

    Returns:
        Which channels are left.
    """
    kept = np.asarray(present) & (rng.random(len(present)) >= share)
    if not kept.any():
        kept[rng.choice(np.flatnonzero(present))] = True
    return tuple(bool(channel) for channel in kept)
