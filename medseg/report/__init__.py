"""Figures and pages that show what a network learned and what it drew."""
