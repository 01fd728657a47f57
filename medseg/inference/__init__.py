"""From an image to labels on its own grid: tiles, their sums, the exact winners, and the memory that it takes.

`labelling` puts the parts together; `medseg.segmenter.Segmenter` is what others call.
"""
