"""Patterns for :func:`attnc.attention`; see :mod:`attnc.frontends.patterns`."""

from .frontends.patterns import Block, Causal, Dilated, Every, Everything, Global, Neighborhood, Pattern, Pooled, Window

__all__ = ["Block", "Causal", "Dilated", "Every", "Everything", "Global", "Neighborhood", "Pattern", "Pooled", "Window"]
