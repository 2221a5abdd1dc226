"""Mean intersection over union of classes of pixels.

Per class, pixels of all examples count together; the mean is over the classes that are
labelled or predicted somewhere. Labels of -1 do not count.
"""

import jax
import jax.numpy as jnp

BETTER = max


def totals(outputs: jax.Array, batch: dict) -> dict[str, jax.Array]:
  """Returns for each class the pixels of the intersection and of the union.

  Args:
    outputs: logits (B, H, W, classes).
    batch: with "target", int (B, H, W).
  """
  wanted, found = batch["target"], outputs.argmax(axis=-1)
  asked = wanted >= 0
  sums = {}
  for number in range(outputs.shape[-1]):
    one, two = (wanted == number) & asked, (found == number) & asked
    sums[f"intersection_{number}"] = jnp.sum(one & two, dtype=jnp.float32)
    sums[f"union_{number}"] = jnp.sum(one | two, dtype=jnp.float32)
  return sums


def value(totals: dict[str, float]) -> float:
  """Returns the mean over classes; 0 without any."""
  unions = {n: v for n, v in totals.items() if n.startswith("union_") and v > 0}
  shares = [totals[n.replace("union", "intersection")] / v for n, v in unions.items()]
  return sum(shares) / max(len(shares), 1)
