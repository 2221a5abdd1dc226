r"""The pixels of the shape that a sentence names, by a network that reads sentences.

  python -m experiments.run --config configs/ground.py --workdir runs/ground
  python -m experiments.run --config configs/ground.py --workdir runs/softmax \
      --config.attention.gate=softmax

A system of the form "cross" changes each map of the backbone by the sentence. The gate
is not the paper's softmax, which begins slowly, but that softmax times the number of
channels.

Measured: validation IoU of the foreground 0.957, pooled, and 0.954 as the mean of
images after 800 steps, 0.941 and 0.938 after 600; a minute in all on one core. With the
softmax 0.706 and 0.755 after 800 steps.
"""

from ml_collections import ConfigDict

from experiments import configuration


def get_config(mechanism: str = "sentence_attention") -> ConfigDict:
  c = configuration.default(mechanism, host="grounding", dataset="answer_grounding")
  c.steps = 800
  c.data.batch = 16
  c.eval_every = c.save_every = 200
  c.log_every = 20
  c.optimizer.rate = 3e-3
  configuration.where_present(c, gate="softmax_scaled")
  return c
