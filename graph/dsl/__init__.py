"""What users call to build graphs: functions over tensors, each of which applies a row of the op tables.

Names, argument names and their order follow PyTorch's functional interface.
"""

from faltung.graph.dsl.convolution import (
    conv1d as conv1d,
    conv2d as conv2d,
    conv3d as conv3d,
    linear as linear,
    matmul as matmul,
)
from faltung.graph.dsl.leaves import (
    as_tensor as as_tensor,
    constant as constant,
    input as input,
    parameter as parameter,
)
from faltung.graph.dsl.losses import (
    cross_entropy as cross_entropy,
)
from faltung.graph.dsl.pointwise import (
    abs as abs,
    exp as exp,
    log as log,
    maximum as maximum,
    minimum as minimum,
    pointwise as pointwise,
    relu as relu,
    sigmoid as sigmoid,
    sqrt as sqrt,
    tanh as tanh,
)
from faltung.graph.dsl.pooling import (
    avg_pool1d as avg_pool1d,
    avg_pool2d as avg_pool2d,
    avg_pool3d as avg_pool3d,
    max_pool1d as max_pool1d,
    max_pool2d as max_pool2d,
    max_pool3d as max_pool3d,
)
from faltung.graph.dsl.reductions import (
    argmax as argmax,
    log_softmax as log_softmax,
    max as max,
    mean as mean,
    min as min,
    over as over,
    softmax as softmax,
    sum as sum,
)
from faltung.graph.dsl.views import (
    flatten as flatten,
    reshape as reshape,
    transpose as transpose,
)
