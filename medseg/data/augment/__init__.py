"""Random changes of training patches: batched torch on the device of the data, keyed by (seed, epoch, index)."""

from medseg.data.augment.apply import augment
from medseg.data.augment.draws import Draw, draw
from medseg.data.augment.settings import Augmentation

__all__ = ["Augmentation", "Draw", "augment", "draw"]
