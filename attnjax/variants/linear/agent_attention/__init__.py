"""Agent attention: softmax attention through a few agents, which is linear attention.

Dongchen Han, Tianzhu Ye, Yizeng Han, Zhuofan Xia, Siyuan Pan, Pengfei Wan, Shiji Song,
Gao Huang. Agent Attention: On the Integration of Softmax and Linear Attention. 2023.
arXiv:2312.08874. Official code: github.com/LeapLabTHU/Agent-Attention (commit 207ce3e).

  V_A = softmax(scale A k^T + gather_bias) v          over the keys
  out = softmax(scale q A^T + spread_bias) V_A        over the agents
  biases = interpolated tables + a bias of each row and column; + conv3x3(v)

The agents A are few averages of the queries. Each row of the implied (T, S) matrix sums
to 1, and its rank is at most A. The forms of the paper: in a pyramid with reduced keys
("sr_ratio"), with a class token, in windows; and one for models that are already
trained, where agents are merged tokens (`training_free`, `DropIn`).

Cost: O((T + S) A (H + V) N) time and O((T + S) N) memory in "xla"; (T + S) A N elements
in "reference", and for the biases in both.

Axes: B batch, T queries, S keys, A agents, N query heads, K key/value heads, H head
size, V value size, D model width, P points of a table.

Not here: Agent-CSwin; the networks that detect and segment.
"""

from attnjax.variants.linear.agent_attention.attention import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  reference,
  training_free,
)
from attnjax.variants.linear.agent_attention.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.linear.agent_attention.biases import Biases
from attnjax.variants.linear.agent_attention.layer import Layer
from attnjax.variants.linear.agent_attention.merging import DropIn, Matching, matching

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "SIZES",
  "Biases",
  "DropIn",
  "Layer",
  "Matching",
  "Model",
  "attend",
  "matching",
  "reference",
  "training_free",
]
FORMS = ("sequence", "image", "backbone")
LAYER = {"dim": 32, "heads": 4, "kv_heads": 2, "num_agents": 4, "grid": 5}
GROWTH = 1.0
