"""What users call to build graphs: functions over tensors, each of which applies a row of the op tables.

Names, argument names and their order follow PyTorch's functional interface.
"""

from faltung.graph.dsl.border import (
    border as border,
)
from faltung.graph.dsl.convolution import (
    conv1d as conv1d,
    conv2d as conv2d,
    conv3d as conv3d,
    conv_transpose1d as conv_transpose1d,
    conv_transpose2d as conv_transpose2d,
    conv_transpose3d as conv_transpose3d,
    linear as linear,
    matmul as matmul,
)
from faltung.graph.dsl.leaves import (
    as_tensor as as_tensor,
    constant as constant,
    input as input,
    parameter as parameter,
)
from faltung.graph.dsl.lookup import (
    dropout as dropout,
    embedding as embedding,
    one_hot as one_hot,
)
from faltung.graph.dsl.losses import (
    binary_cross_entropy as binary_cross_entropy,
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    cross_entropy as cross_entropy,
    huber_loss as huber_loss,
    l1_loss as l1_loss,
    mse_loss as mse_loss,
    nll_loss as nll_loss,
    smooth_l1_loss as smooth_l1_loss,
)
from faltung.graph.dsl.normalisation import (
    batch_norm as batch_norm,
    group_norm as group_norm,
    instance_norm as instance_norm,
    layer_norm as layer_norm,
    local_response_norm as local_response_norm,
)
from faltung.graph.dsl.pointwise import (
    abs as abs,
    celu as celu,
    elu as elu,
    erf as erf,
    exp as exp,
    gelu as gelu,
    hardsigmoid as hardsigmoid,
    hardswish as hardswish,
    hardtanh as hardtanh,
    leaky_relu as leaky_relu,
    log as log,
    logsigmoid as logsigmoid,
    maximum as maximum,
    minimum as minimum,
    mish as mish,
    pointwise as pointwise,
    power as power,
    prelu as prelu,
    relu as relu,
    relu6 as relu6,
    selu as selu,
    sigmoid as sigmoid,
    silu as silu,
    softplus as softplus,
    softsign as softsign,
    sqrt as sqrt,
    tanh as tanh,
)
from faltung.graph.dsl.pooling import (
    adaptive_avg_pool1d as adaptive_avg_pool1d,
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    adaptive_avg_pool3d as adaptive_avg_pool3d,
    adaptive_max_pool1d as adaptive_max_pool1d,
    adaptive_max_pool2d as adaptive_max_pool2d,
    adaptive_max_pool3d as adaptive_max_pool3d,
    avg_pool1d as avg_pool1d,
    avg_pool2d as avg_pool2d,
    avg_pool3d as avg_pool3d,
    lp_pool1d as lp_pool1d,
    lp_pool2d as lp_pool2d,
    lp_pool3d as lp_pool3d,
    max_pool1d as max_pool1d,
    max_pool2d as max_pool2d,
    max_pool3d as max_pool3d,
    max_unpool1d as max_unpool1d,
    max_unpool2d as max_unpool2d,
    max_unpool3d as max_unpool3d,
)
from faltung.graph.dsl.reductions import (
    argmax as argmax,
    argmin as argmin,
    log_softmax as log_softmax,
    max as max,
    mean as mean,
    min as min,
    over as over,
    softmax as softmax,
    sum as sum,
)
from faltung.graph.dsl.resize import (
    fold as fold,
    interpolate as interpolate,
    unfold as unfold,
)
from faltung.graph.dsl.views import (
    cat as cat,
    channel_shuffle as channel_shuffle,
    flatten as flatten,
    flip as flip,
    getitem as getitem,
    pad as pad,
    pixel_shuffle as pixel_shuffle,
    pixel_unshuffle as pixel_unshuffle,
    reshape as reshape,
    squeeze as squeeze,
    stack as stack,
    transpose as transpose,
    unflatten as unflatten,
    unsqueeze as unsqueeze,
)
