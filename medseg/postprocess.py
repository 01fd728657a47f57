"""`Postprocessing`: what is done to a network's logits and labels before they are a label map."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from medseg.components import LabelArray, keep_largest
from medseg.crf import CRF
from medseg.labels import LabelSet


class Postprocessing(BaseModel):
    """What is done to a network's logits and labels; nothing by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crf: CRF | None = Field(
        default=None,
        description="Refine the probabilities by mean-field inference on the image; {} takes the defaults. "
        "All classes of the whole image are in memory for it, and it takes minutes on a CPU.",
    )
    keep_largest: tuple[str, ...] = Field(
        default=(),
        description="Names of labels of which the largest connected component is kept on the image's own grid; "
        "the rest becomes background. `medseg select` finds where this helps.",
    )

    def clean(self, array: LabelArray, labels: LabelSet) -> LabelArray:
        """Keep the largest component of each label that `keep_largest` names.

        Args:
            array: Label values (i, j, k).
            labels: What they mean.

        Returns:
            The array itself where nothing is removed, a changed copy otherwise.
        """
        for label in labels:
            if label.name in self.keep_largest:
                array = keep_largest(array, label.index)
        return array

    def keeping_largest(self, names: Iterable[str]) -> Postprocessing:
        """Return the same postprocessing with the largest component of more labels kept."""
        return self.model_copy(update={"keep_largest": tuple(dict.fromkeys((*self.keep_largest, *names)))})
