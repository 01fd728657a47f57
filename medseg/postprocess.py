"""`Postprocessing`: what is done between a network's logits and labels."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from medseg.crf import CRF


class Postprocessing(BaseModel):
    """What is done between a network's logits and labels; nothing by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crf: CRF | None = Field(
        default=None,
        description="Refine the probabilities by mean-field inference on the image; {} takes the defaults. "
        "All classes of the whole image are in memory for it, and it takes minutes on a CPU.",
    )
