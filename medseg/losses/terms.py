"""The terms that losses add up, each a closed form of `ClassSums`.

For a region (a class, or a class of one sample): o overlap, a predicted mass, t voxels of truth, s smooth.
"""

from __future__ import annotations

from torch import Tensor

from medseg.losses.counting import Counting, ratio, weighted_mean
from medseg.losses.sums import ClassSums


def mean_surprise(sums: ClassSums, counting: Counting) -> Tensor:
    """Return the mean cross entropy or focal loss over voxels, weighted by their true classes; 0 without voxels.

    Source: The weighted mean is that of ``torch.nn.functional.cross_entropy``. Focal: Lin et al. 2017
    (arXiv:1708.02002).
    """
    weights = counting.weights(sums)
    return ratio((weights * sums.surprise).sum(), (weights * sums.truth).sum())


def dice(sums: ClassSums, counting: Counting) -> Tensor:
    """Return the weighted mean over regions of 1 - (2 o + s) / (a + t + s).

    Source: Milletari et al. 2016 (arXiv:1606.04797), with plain sums in the denominator (Drozdzal et al. 2016,
    arXiv:1608.04117).
    """
    (overlap, predicted, truth, _), weights = counting.regions(sums)
    score = ratio(2 * overlap + counting.smooth, predicted + truth + counting.smooth)
    return weighted_mean(1 - score, weights)


def log_dice(sums: ClassSums, counting: Counting) -> Tensor:
    """Return the weighted mean, over the regions that the truth has, of log(a + t + s) - log(2 o + s).

    It is -log of the soft Dice of each region, without its rounding to 1 or 0. Regions without truth have no Dice
    to speak of and do not count; 0 where none has truth.

    Source: Wong et al. 2018 (arXiv:1809.00076), with exponent 1; of the Jaccard index, Iglovikov & Shvets 2018
    (arXiv:1801.05746).
    """
    (overlap, predicted, truth, _), weights = counting.regions(sums)
    cost = (predicted + truth + counting.smooth).log() - (2 * overlap + counting.smooth).log()
    return weighted_mean(cost, weights * (truth > 0))


def tversky(sums: ClassSums, counting: Counting, *, alpha: float, beta: float) -> Tensor:
    """Return the weighted mean over regions of 1 - (o + s) / (o + alpha (a - o) + beta (t - o) + s).

    Source: Salehi et al. 2017 (arXiv:1706.05721).
    """
    (overlap, predicted, truth, _), weights = counting.regions(sums)
    missed = alpha * (predicted - overlap) + beta * (truth - overlap)
    return weighted_mean(1 - ratio(overlap + counting.smooth, overlap + missed + counting.smooth), weights)


def generalized_dice(sums: ClassSums, counting: Counting) -> Tensor:
    """Return 1 - (2 sum w o + s) / (sum w (a + t) + s), summed over classes with w = 1 / t^2; mean over samples.

    A class without truth has the largest w of those with truth, as in MONAI. If `batch`, there is one sample: all.

    Source: Sudre et al. 2017 (arXiv:1707.03237).
    """
    (overlap, predicted, truth, _), weights = counting.regions(sums)
    present = truth > 0
    rarity = present / truth.clamp_min(1).square()
    rarity = rarity.where(present, rarity.amax(1, keepdim=True)) * weights
    numerator = 2 * (rarity * overlap).sum(1) + counting.smooth
    return (1 - ratio(numerator, (rarity * (predicted + truth)).sum(1) + counting.smooth)).mean()
