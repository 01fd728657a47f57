"""Choosing among finished runs by their cross-validation: `medseg.selection.select.select`."""
