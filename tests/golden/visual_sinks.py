"""The authors' redistribution of weights in a prompt, with the code's signs."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.analysis import visual_sinks


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, jax.Array, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each result of the file."""
  x, attn = jnp.asarray(arrays["in.hidden"]), jnp.asarray(arrays["in.attn"])
  first, end = meta["image_begin"], meta["image_begin"] + meta["image_len"]
  found = visual_sinks.sinks(x, meta["sink_dims"], tau=meta["tau"])
  place = jnp.broadcast_to(jnp.arange(x.shape[1]), found.shape)
  image = (place >= first) & (place < end)
  # The code's rho is the share on sinks, its p the share that stays.
  selected = visual_sinks.image_head_mask(
    attn, image, found, rho=1 - meta["rho"], summ=meta["summ"]
  )
  selected &= (place >= end)[:, None]
  got = visual_sinks.redistribute(attn, found, image, selected, p=1 - meta["p"])
  (indices,) = np.nonzero(np.asarray(found[0]))
  yield "out.sinks", indices, arrays["out.sinks"]
  yield "out.selected", selected, arrays["out.selected"]
  yield "out.attn", got, arrays["out.attn"]
