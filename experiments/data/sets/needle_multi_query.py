"""Needles of several keys, several of which are asked for one after the other.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.1; https://github.com/NVIDIA/RULER.

As `needle`, with one needle for each of `keys` different keys; `queries` of them are
asked for at the end, in random order: "The code of <letters> is <digits>. The code of
<letters> is <digits>". The keys are given, the digits labelled. With a `depth` the
needles that are asked for stand there, one behind the other.

RULER: 4 keys and all 4 asked for in one question; its models by length are in
`needle_multi_key`. arXiv:2504.17768 finds that sparse attention fails on this task at a
sparsity of .8 to .9, where a single needle bears .95.
"""

import functools

from experiments.data import needles

task = functools.partial(
  needles.task, "needle_multi_query", keys=4, values=1, queries=4
)
