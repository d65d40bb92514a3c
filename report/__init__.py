"""The report: what a bundle holds and what was measured of it, as one HTML file that needs nothing else."""

from __future__ import annotations
