"""Needles of one key with several values, all of which are asked for.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.1; https://github.com/NVIDIA/RULER.

As `needle`, with `values` needles of one key. The question is answered with all their
codes in the order of the text, "The code of <letters> is <digits>, <digits>"; what lies
between the codes has no label. With a `depth` all needles stand there, one behind the
other.

RULER: 4 values, in any order, where a part of them gives a part of the score; its
models by length are in `needle_multi_key`. Not here: answers in another order.
"""

import functools

from experiments.data import needles

task = functools.partial(
  needles.task, "needle_multi_value", keys=1, values=4, queries=1
)
