"""ITCFN: three streams ask each other, some of which may be absent.

Xiangyang Hu, Xiangyu Shen, Yifei Sun, Xuhao Shan, Wenwen Min, Liyilei Su, Xiaomao Fan,
Ahmed Elazab, Ruiquan Ge, Changmiao Wang, Xiaopeng Fan. ITCFN: Incomplete Triple-Modal
Co-Attention Fusion Network for Mild Cognitive Impairment Conversion Prediction. 2025.
arXiv:2501.11276. Official code: github.com/justinhxy/ITFC at 839444f.

Streams x1 (MRI), x2 (PET) and x3 (a clinical table) have T tokens of width D each, and
token t of each belongs together; att(q; k, v) = softmax(q k^T / sqrt(H)) v.

  joint      q = Wq [x1; x2; x3],  c_m = att(q; k_m, v_m),  out_m = Wo_m [x_m; c_m]
             all = rows of out_1 and out_2 in turn, then out_3
  ring       q_m = Wq_m x_m,  c_m = att(q_m; k_(m+1), v_(m+1)),  out_m = Wo_m [x_m; c_m]
             all = out_1, out_2, out_3
  joint_mha  q as in joint, out_m = MultiheadAttention_m(q; x_m, x_m); all likewise

Every map has a bias. "joint" is one query against three blocks of keys, with a softmax
for each block: `attend`. In the authors' network 256 features are the tokens and D = 1.

Around it: the self-attention block LN(dense(att(x)) + x), `SelfAttention`; the spline
layer y = silu(x) Wb + sum_g spline_g(x) Ws_g scaler, `kan_linear`; the clinical table's
`ClinicalEncoder`, a spline layer and three transformer blocks on one token; the head of
all tokens, a 1-D `DenseNet`; and the loss

  focal = mean 0.25 (1 - p)^2 (-log p)
  S(a, b) = mean_i KL(softmax_j(2 cos(a_i, b_j)) || T_i), both ways, with
            T_ij = 1[y_i = y_j] / (their number) + 1e-8
  loss = focal + w2 ((1 - w1) S(1, 2) + w1 (S(2, 3) + S(1, 3)) / 2),  w1 = .2, w2 = .01

Invented here: `present`, for absent streams, with a learned token in the place of each
of their tokens and keys that nobody sees, beside a generator's output, which the host
`attnjax.models.modalities` fills in; more than one head of "joint" and "ring"; examples
with the label -1, which are not counted. The authors' "joint_mha" drops no weights:
`drop_rate` = 0 there. Their scores pass a sigmoid before the cross entropy, an option
of the host.

Cost: O(3 T^2 D) time; memory O(3 T D), in "reference" O(3 T^2 N).

Axes: B batch, M blocks of keys, T query tokens, S keys of a block, N heads, H head
size, V value size, D width, L = 3 T, I features, O outputs, G splines, C classes.

Not here: a kernel that loads the query once for its three softmaxes (blocks are rows
of the batch of the softmax engine); sorting for D = 1; the VQ-GAN that makes PET of
MRI, with its adversarial and perceptual losses (an MLP stands for it); the 3-D
ResNet-50, and so the whole network of 51,712,485 parameters, whose other parts are
here; grids of splines that follow the data; dropout in "reference"; the cohorts ADNI-1
and ADNI-2.
"""

from attnjax.variants.cross.triple_modal.block import SelfAttention
from attnjax.variants.cross.triple_modal.cases import CASES, CURVES, REFUSED
from attnjax.variants.cross.triple_modal.clinical import ClinicalEncoder
from attnjax.variants.cross.triple_modal.coattention import (
  IMPLEMENTATIONS,
  attend,
  tri_coattention,
)
from attnjax.variants.cross.triple_modal.definition import (
  reference,
  reference_focal_loss,
  reference_itcfn_loss,
  reference_kan_linear,
  reference_sdm_loss,
  reference_tri_coattention,
)
from attnjax.variants.cross.triple_modal.dense_net import DenseNet
from attnjax.variants.cross.triple_modal.kan import KANLinear, b_splines, kan_linear
from attnjax.variants.cross.triple_modal.layer import Layer
from attnjax.variants.cross.triple_modal.losses import (
  focal_loss,
  itcfn_loss,
  sdm_loss,
)
from attnjax.variants.cross.triple_modal.weights import (
  KINDS,
  STREAMS,
  BlockWeights,
  Weights,
)

FORMS = ("cross",)
ALIGNED = True  # token t of each stream belongs together
LAYER = {"dims": dict.fromkeys(STREAMS, 6), "heads": 2}
GROWTH = 2.0

__all__ = [
  "ALIGNED",
  "CASES",
  "CURVES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "KINDS",
  "LAYER",
  "REFUSED",
  "STREAMS",
  "BlockWeights",
  "ClinicalEncoder",
  "DenseNet",
  "KANLinear",
  "Layer",
  "SelfAttention",
  "Weights",
  "attend",
  "b_splines",
  "focal_loss",
  "itcfn_loss",
  "kan_linear",
  "reference",
  "reference_focal_loss",
  "reference_itcfn_loss",
  "reference_kan_linear",
  "reference_sdm_loss",
  "reference_tri_coattention",
  "sdm_loss",
  "tri_coattention",
]
