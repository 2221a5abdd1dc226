r"""The class of every pixel of pictures of overlapping shapes, by a U-shaped network.

  python -m experiments.run --config configs/segment.py --workdir runs/segment
  python -m experiments.run --config configs/segment.py:hilo --workdir runs/hilo

The mechanism is in every block of the network. A system that is a whole network from
images to maps itself, of the form "dense", is trained as it is.

Measured: validation mean IoU 0.743 and accuracy of pixels 0.959 after 800 steps, 0.722
after 600; 0.05 processor seconds a step, a minute in all on one core. Ground alone has
an accuracy of 0.779.
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(mechanism: str = "neighborhood") -> ConfigDict:
  host = configuration.host_of(mechanism, "dense", "unet")
  c = configuration.default(mechanism, host=host, dataset="drawn_shapes")
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
