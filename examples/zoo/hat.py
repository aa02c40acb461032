"""HAT: characters see the characters of their own word, words see the words before them.

Neitemeier, Deiseroth, Eichenberg, Balles: Hierarchical Autoregressive Transformers: Combining Byte- and Word-Level
Processing for Robust, Adaptable Language Models, 2025 (arXiv 2501.10322), section 3.  Characters are packed without
padding; the first of each word is the token [W].  Splitting rules cap the length of a word.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, hierarchical, causal"
LONGEST = 20


def _attend(x: Tensor, w_qkv: Tensor, heads: int, seen: Tensor) -> Tensor:
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (x @ w_qkv).chunk(3, -1))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v).transpose(0, 1).flatten(1)


@attnc.compile
def bytes_and_words(
    x: Tensor, word: Tensor, start: Tensor, w_char: Tensor, w_up: Tensor, w_word: Tensor, w_down: Tensor, heads: int
) -> Tensor:
    """Encoder inside words, backbone over words, decoder inside words with the word before as its first token."""
    i, j = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[0])[None, :]
    together = (word[:, None] == word[None, :]) & ((i - j).abs() < LONGEST)
    encoded = x + _attend(x, w_char[0], heads, together)
    words = encoded[start] @ w_up
    n = torch.arange(words.shape[0])
    words = words + _attend(words, w_word, heads, n[None, :] <= n[:, None])
    prefix = torch.cat([torch.zeros_like(x[:1]), (words @ w_down)[:-1]])
    y = x.index_copy(0, start, prefix)
    return y + _attend(y, w_char[1], heads, together & (j <= i))


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    count, narrow, wide, heads = (19, 12, 20, 2) if small else (700, 384, 2048, 6)
    heads = heads if small else 8
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 11, (count,), generator=random)  # 5 bytes and [W] on average
    word = torch.repeat_interleave(torch.arange(count), lengths)
    start = lengths.cumsum(0) - lengths
    x = torch.randn(len(word), narrow, generator=random)
    w_char = torch.randn(2, narrow, 3 * narrow, generator=random) * narrow**-0.5
    w_up, w_word, w_down = (
        torch.randn(a, b, generator=random) * a**-0.5 for a, b in ((narrow, wide), (wide, 3 * wide), (wide, narrow))
    )
    return {"bytes_and_words": (x, word, start, w_char, w_up, w_word, w_down, heads)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
