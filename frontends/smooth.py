"""Which tensors may have gradients."""

from __future__ import annotations

import torch


def is_smooth(dtype: torch.dtype) -> bool:
    """May there be gradients of tensors of this type?"""
    return dtype.is_floating_point or dtype.is_complex
