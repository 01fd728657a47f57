"""The plan of a training: measurements of the data and memory at hand -> every number of a configuration, and why.

`spacing`, `topology`, `patch`, `candidates` and `values` are pure; `footprint` estimates and `drystep` measures the
memory of a step; `experiment` puts them together for what a `draft` leaves open; `prepare` measures the data first.
"""
