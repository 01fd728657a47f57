"""Mean-field refinement between the sliding window and the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.crf import CRF, mean_field
from medseg.inference.tiles import Advance, Slab, TileEngine


@dataclass(frozen=True)
class RefinedEngine:
    """A sliding window whose probabilities are refined on the image before they are handed on.

    A voxel's label depends on neighbours further away than a slab is deep: the logits of the whole image are in
    memory at once, four times over.

    Args:
        engine: The sliding window.
        crf: Kernels and number of updates.
        spacing_mm: Of the image.
        regions: Each logit is one of a region, refined against its outside; else all are of one choice.
    """

    engine: TileEngine
    crf: CRF
    spacing_mm: Sequence[float]
    regions: bool = False

    def slabs(self, image: Tensor, advance: Advance | None = None) -> Iterator[Slab]:
        """Yield one slab of the whole image: the logarithms of refined probabilities; of regions, their logits.

        Args:
            image: float32 (C, i, j, k).
            advance: Called with (tiles done, tiles in all).
        """
        logits = torch.cat([slab.logits for slab in self.engine.slabs(image, advance)], dim=-1)  # (K, i, j, k)
        image = image.to(logits.device)
        if not self.regions:
            yield Slab(0, self._refined(logits, image))
            return
        for region in logits:
            outside, inside = self._refined(torch.stack((torch.zeros_like(region), region)), image)
            region.copy_(inside - outside)
        yield Slab(0, logits)

    def _refined(self, logits: Tensor, image: Tensor) -> Tensor:
        refined = mean_field(logits.softmax(dim=0), image, self.crf, self.spacing_mm)
        return refined.clamp_min_(torch.finfo(refined.dtype).tiny).log_()
