r"""A hierarchical vision model on MNIST-5k: 14 x 14, then 7 x 7 tokens.

python -m experiments.run --config configs/pyramid.py:neighborhood --workdir runs/p
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(mechanism: str = "neighborhood") -> ConfigDict:
  c = configuration.default(mechanism, host="pyramid", dataset="mnist5k")
  c.steps = 200
  c.data.batch = 64
  c.eval_every = c.save_every = 100
  c.optimizer.rate = 3e-3
  # The host adds positions of its own, in two dimensions.
  configuration.where_present(c, rope_theta=0.0, qk_norm=True)
  return c
