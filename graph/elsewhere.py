"""Names that PyTorch and NumPy have and Faltung has not: what is written here instead, told where one of them is missing.

One row a name. A name that is a function of Faltung needs no row.
"""

from __future__ import annotations

_CAST = "ft.compile(y, dtype='float64') computes in double precision; there is only the CPU"
_VALUE = "the value of a parameter is t.read() and is changed by t.assign(array); other tensors are computed by ft.compile(t)(…)"
_TRAINED = "what is trained is said where it is: ft.grad(loss, tensors), ft.compile_step(loss, {name: parameter}, optimiser)"
_MASK = "a bracket of an equation, 1 where it holds and 0 elsewhere: ft.define('Y[...] = [X[...] > 0] * Z[...]')(x, z)"
_CLIPPED = "ft.minimum(ft.maximum(x, low), high)"
_PARTS = "slices: x[:, :8], x[:, 8:]"
_ARRAY = "arrays are NumPy's; ft.constant(array) and ft.parameter(array) make tensors of them"
_FILES = "net.save(path) and net.load(path), for arrays ft.weights.write(path, arrays) and ft.weights.read(path)"
_ATTRIBUTE = "assign to an attribute: self.name = nn.Conv2d(…), self.name = ft.parameter(array)"
_INITIAL = "t.assign(array) gives a parameter another value"
_CLIPPING = "gradients are tensors: scale them in a subclass of the optimiser, whose update(parameters, gradients) gets them"
_BUILT = "SGD, Adam and AdamW; an optimiser is an equation, graph/descent.py has them"
_NOTHING = "nothing needs to be written: a compiled model computes what it was asked for, gradients only if they are among it"
_EQUATION = "an equation: ft.define('Y[b,i,j] = sum(k: A[b,i,k] * B[b,k,j])')(a, b)"
_PICTURES = "ft.datasets.image_folder(path), a sub-folder of image files for each class; (images, labels), two arrays, are data as they are"
_STEP = "ft.compile_step(loss, net, optimiser) is a whole training step; ft.grad(loss, tensors) gives gradients as tensors"

Table = dict[str, str]

SHARED: Table = {
    "clamp": _CLIPPED, "clip": _CLIPPED, "split": _PARTS, "chunk": _PARTS, "where": _MASK, "masked_fill": _MASK,
    "view": "x.reshape(…)", "permute": "x.transpose(0, 2, 3, 1), which takes the axes in their new order", "pow": "x**2",
    "square": "x**2", "concat": "ft.cat([a, b], 1)", "concatenate": "ft.cat([a, b], 1)", "bmm": _EQUATION, "einsum": _EQUATION,
    "var": "((x - x.mean(d, keepdim=True))**2).mean(d)", "std": "ft.sqrt of the mean of (x - x.mean(d, keepdim=True))**2",
    "norm": "ft.sqrt((x * x).sum(d))", "detach": "ft.define('Y[...] = stop(X[...])')(x), whose derivative is 0",
}  # fmt: skip

TENSOR: Table = SHARED | {
    "T": "x.transpose()", "t": "x.transpose()", "mT": "x.transpose(…)", "size": "x.shape", "dim": "x.rank", "ndim": "x.rank",
    "numel": "math.prod(x.shape)", "contiguous": "x itself", "clone": "x itself: nothing changes a tensor",
    "data": _VALUE, "item": _VALUE, "numpy": _VALUE, "tolist": _VALUE, "copy_": _VALUE,
    "to": _CAST, "cuda": _CAST, "cpu": _CAST, "float": _CAST, "double": _CAST, "half": _CAST,
    "grad": _STEP, "backward": _STEP, "requires_grad": _TRAINED, "requires_grad_": _TRAINED,
}  # fmt: skip

FUNCTIONS: Table = SHARED | {
    "tensor": _ARRAY, "zeros": _ARRAY, "ones": _ARRAY, "randn": _ARRAY, "rand": _ARRAY, "arange": _ARRAY, "zeros_like": _ARRAY,
    "ones_like": _ARRAY, "from_numpy": _ARRAY, "save": _FILES, "load": _FILES, "functional": "functions are in ft itself: ft.relu(x)",
    "no_grad": _NOTHING, "inference_mode": _NOTHING, "autograd": _STEP, "device": _CAST, "cuda": _CAST,
    "utils": "batches come from ft.fit, or from slices of your arrays",
}  # fmt: skip

LAYERS: Table = {
    "functional": "functions are in ft itself: ft.relu(x)", "Parameter": "ft.parameter(array)", "init": _INITIAL,
    "ParameterList": _ATTRIBUTE, "ParameterDict": _ATTRIBUTE, "ModuleDict": "nn.Sequential({name: layer}), or attributes",
    "Softmax2d": "nn.Softmax(dim=1)", "utils": _CLIPPING,
}  # fmt: skip

MODULE: Table = {
    "to": _CAST, "cuda": _CAST, "cpu": _CAST, "float": _CAST, "double": _CAST, "half": _CAST,
    "register_buffer": "arrays that are not trained are attributes as they are", "register_parameter": _ATTRIBUTE, "add_module": _ATTRIBUTE,
    "zero_grad": _STEP, "requires_grad_": _TRAINED, "apply": "for module in net.modules(): …", "get_submodule": "net.name, or dict(net.named_modules())[path]",
    "get_parameter": "dict(net.named_parameters())[name]",
}  # fmt: skip

DATASETS: Table = {
    "MNIST": "ft.datasets.mnist()", "FashionMNIST": "ft.datasets.fashion_mnist()", "ImageFolder": "ft.datasets.image_folder(path)",
    "DataLoader": "ft.datasets.Loader(data, batch_size)", "CIFAR10": _PICTURES, "CIFAR100": _PICTURES, "SVHN": _PICTURES, "ImageNet": _PICTURES,
    "cifar10": _PICTURES, "cifar100": _PICTURES, "svhn": _PICTURES, "imagenet": _PICTURES, "load": "ft.datasets.mnist(), ft.datasets.fashion_mnist()",
}  # fmt: skip

OPTIMISERS: Table = {
    "lr_scheduler": "step.lr = … before a step, or ft.fit(…, schedule=lambda epoch: …)",
    "RMSprop": _BUILT, "Adagrad": _BUILT, "Adamax": _BUILT, "NAdam": _BUILT, "RAdam": _BUILT, "LBFGS": _BUILT,
}  # fmt: skip


def missing(where: str, name: str, owner: object, table: Table) -> AttributeError:
    """The error for an attribute that is not there: with what to write instead, where that is known."""
    from faltung.graph import dsl

    instead = table.get(name, "")
    if not instead and table is TENSOR and not name.startswith("_") and callable(getattr(dsl, name, None)):
        instead = f"ft.{name}(x)"
    return AttributeError(f"{where} has no attribute {name!r}" + (f"; here: {instead}" if instead else ""), name=name, obj=owner)
