"""Where a network looks: class activation maps and derivatives by the input, in 1, 2 and 3 dimensions, as graphs.

The derivative of a score by an activation is one more tensor of the graph, so each method is a few equations
(`equations.py`), compiled together with the network for any batch size:

    heat = saliency.GradCAM(net, [net.features])(images, targets)      # (N, H, W), from 0 to 1

`targets` are classes, objects with a `category`, or None for the class with the highest score. The network is looked
at in evaluation mode and left in its own.

Of pytorch-grad-cam's interface there are the two arguments, `model` and `target_layers`, of GradCAM and GradCAMPlusPlus,
calls with `input_tensor` and `targets`, the `with` statement, and ClassifierOutputTarget. There are not: targets that are
called, `reshape_transform`, `aug_smooth`, `eigen_smooth`, and its other methods. Images are arrays, not tensors of PyTorch.
"""

from faltung.saliency.activation import CAM, GradCAM, GradCAMPlusPlus
from faltung.saliency.gradient import Deconvnet, Gradients, GuidedBackprop, IntegratedGradients, SmoothGrad
from faltung.saliency.method import Method
from faltung.saliency.target import ClassifierOutputTarget

__all__ = [
    "CAM", "ClassifierOutputTarget", "Deconvnet", "GradCAM", "GradCAMPlusPlus", "Gradients", "GuidedBackprop",
    "IntegratedGradients", "Method", "SmoothGrad",
]  # fmt: skip
