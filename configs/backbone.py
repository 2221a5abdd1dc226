r"""A published network, whole, on MNIST-5k: the word after the colon is its system.

  python -m experiments.run --config configs/backbone.py:maxvit --workdir runs/maxvit
  python -m experiments.run --config configs/backbone.py:halo --workdir runs/halo \
      --config.model.size=h0 --config.data.name=tfds:cifar10

`config.model` has the options of the network's size, which follow `size` until they are
set: --config.model.size=tiny --config.model.drop=0.3. The size "mini" is for images of
28 x 28 on a CPU: its stem halves them once, where published ones make fourths, and two
or three stages follow. Published sizes take MNIST's images too, but their last stages
then have a single token. Networks with batch norm are evaluated by its running
statistics, which need some 100 steps.

Measured, the size "mini", 120 steps of which 20 are of warm-up: validation accuracy
0.926 l2vit, 0.872 hilo, 0.866 halo, 0.862 medvitv2, 0.818 davit, 0.766 maxvit, 0.588
duoformer, 0.478 crossformer, in one to three minutes on 2 busy cores.
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(system: str = "davit") -> ConfigDict:
  c = configuration.default(system, host="backbone", dataset="mnist5k")
  c.steps = 200
  c.data.batch = 64
  c.eval_every = c.save_every = 100
  c.optimizer.rate = 2e-3
  return c
