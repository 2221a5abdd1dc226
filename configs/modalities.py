r"""The class of three views, of which the second is often absent.

  python -m experiments.run --config configs/modalities.py --workdir runs/views
  python -m experiments.run --config configs/modalities.py --workdir runs/token \
      --config.model.absent=token --config.attention.kind=ring

Measured: validation accuracy 0.878 after 2,000 steps, 36 seconds of one core.
Four in ten examples lack the view that tells one of the two bits.
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(mechanism: str = "triple_modal") -> ConfigDict:
  c = configuration.default(mechanism, host="modalities", dataset="three_views")
  c.steps = 2000
  c.data.batch = 64
  c.eval_every = c.save_every = 500
  c.log_every = 50
  c.optimizer.rate, c.optimizer.weight_decay = 3e-3, 0.01
  return c
