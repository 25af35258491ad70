"""Loss landscapes: the loss on a plane through a network's parameters, and the curvature at a point.

    directions.py    D      random directions, filter by filter as long as the parameters
    surface.py       L(θ + a·D₁ + b·D₂) for all points of a grid, by one compiled program
    hessian.py       the ends of the spectrum of ∂²L/∂θ², by Lanczos on compiled Hessian-vector products

Li, Xu, Taylor, Studer and Goldstein, Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018. As there, the network
is in evaluation mode (`net.eval()` before the loss is written), so that batch normalisation uses the running
statistics of training at every point. By a batch's own statistics the loss would not depend on the length of a filter, each
image's loss would depend on the others, and what is drawn would not be the network that is used.
"""

from faltung.landscape.directions import Direction, directions, scales, weights
from faltung.landscape.hessian import Ends, Hessian, ends
from faltung.landscape.surface import Landscape, Surface

__all__ = ["Direction", "Ends", "Hessian", "Landscape", "Surface", "directions", "ends", "scales", "weights"]
