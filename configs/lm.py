r"""Byte-level language model on the King James Bible, 2 layers of width 128.

  python -m experiments.run --config configs/lm.py --workdir runs/lm
  python -m experiments.run --config configs/lm.py:gated_attention --workdir runs/g \
      --config.attention.gate=headwise
  python -m experiments.run --config configs/lm.py:lightning2,dot_product \
      --workdir runs/hybrid

Measured: 2.18 validation bits per byte; 208 s of training beside other work (2.12 after
450 steps in 214 s alone), on 2 cores.
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(mechanism: str = "dot_product") -> ConfigDict:
  c = configuration.default(mechanism, host="language", dataset="kjv")
  c.steps = 380
  c.eval_every = c.save_every = 95
  c.optimizer.rate = 3e-3
  c.sample.prompt = "And God said"
  return c
