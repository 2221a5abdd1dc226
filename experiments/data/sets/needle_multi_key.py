"""Needles of several keys, of which one is asked for: the others distract.

Cheng-Ping Hsieh et al. RULER: What's the Real Context Size of Your Long-Context
Language Models? 2024. arXiv:2404.06654, section 3.1; https://github.com/NVIDIA/RULER.

As `needle`, with one needle for each of `keys` different keys; the question is of one.
Its needle stands at `depth`, the others anywhere.

RULER: 4 keys in essays, or a haystack of nothing but needles; 500 examples at each T of
4,096 to 131,072. The mean of its 13 tasks at 4,096 and at 131,072 is 95.5 and 77.0 for
Llama 3.1 of 8B, 96.6 and 81.2 for GPT-4 (1106); 85.6, of Llama 2 of 7B at 4,096, is its
bound of a length that a model masters. Not here: a haystack of needles alone, and codes
that are words or have 32 digits.
"""

import functools

from experiments.data import needles

task = functools.partial(needles.task, "needle_multi_key", keys=4, values=1, queries=1)
