r"""Needles of two keys in 128 bytes, one asked for: 2 layers of width 64, no positions.

Cheng-Ping Hsieh et al. RULER. arXiv:2404.06654, section 3.1. Of its own positions each
mechanism has what it has by default, but softmax attention no rotation: what is learned
on 128 bytes then holds on longer rows.

  python -m experiments.run --config configs/needle.py --workdir runs/needle
  python -m experiments.evaluate --workdir runs/needle --option length=512
  python -m experiments.frontier --workdir runs/needle --lengths 128 256 512

Measured: validation accuracy 0.86 after 1,000 steps, two minutes of one core; 0.79 on
256 bytes.
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(mechanism: str = "dot_product") -> ConfigDict:
  c = configuration.default(mechanism, host="language", dataset="needle_multi_key")
  c.steps = 1000
  c.model.dim, c.model.conv = 64, 3
  c.data.length, c.data.keys, c.data.letters, c.data.digits = 128, 2, 1, 2
  c.data.batch = 32
  c.optimizer.rate = 3e-3
  c.eval_every = c.save_every = 250
  configuration.where_present(c, heads=2, rope_theta=0.0)
  return c
