r"""Heat maps of where three glyphs are in pictures of 32 x 32, amid clutter.

python -m experiments.run --config configs/heatmap.py --workdir runs/heatmap
python -m experiments.run --config configs/heatmap.py:hilo --workdir runs/hilo
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(mechanism: str = "neighborhood") -> ConfigDict:
  host = configuration.host_of(mechanism, "dense", "unet")
  c = configuration.default(mechanism, host=host, dataset="heat_maps")
  c.steps = 800
  c.data.batch = 16
  c.eval_every = c.save_every = 200
  c.log_every = 20
  c.optimizer.rate = 3e-3
  if host == "unet":
    c.model.patch = 4
  # The host adds positions of its own, in two dimensions.
  configuration.where_present(c, rope_theta=0.0, qk_norm=True)
  return c
